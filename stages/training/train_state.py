"""State of a training run between two optimizer steps."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn, optim

from schemas.core.errors import CheckpointError
from stages.data.batching.batches import Batches
from stages.ports.protocols import StateStore, TrainingState
from stages.ports.world import World
from stages.training.meter import Meter
from stages.training.selection import Selector


class TrainState:
    """Everything that continues a run bit for bit: weights, optimizer moments, counters, metric sums, best weights."""

    def __init__(
        self,
        student: nn.Module,
        objective: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        optimizer: optim.Optimizer,
        meter: Meter,
        batches: Batches,
        selector: Selector | None,
    ) -> None:
        self.step = 0
        self.num_tokens = 0
        self.seconds = 0.0
        self._student, self._objective = student, objective
        self._parameters, self._optimizer = parameters, optimizer
        self._meter, self._batches, self._selector = meter, batches, selector
        self._initial_microbatch_tokens = batches.microbatch_tokens

    def saved(self, *, teachers_cached: bool) -> TrainingState:
        """Return a copy that can be written while training continues.

        Args:
            teachers_cached: whether the teachers are read from a cache, which decides how their outputs are rounded.
        """
        tensors = {f"student.{name}": tensor for name, tensor in self._student.state_dict().items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in self._objective.state_dict().items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors |= {"meter.sums": self._meter.sums, "meter.counts": self._meter.counts}
        numbers: dict[str, float] = {
            "tokens": self.num_tokens,
            "seconds": self.seconds,
            "meter_tokens": self._meter.tokens,
            "meter_padded": self._meter.padded,
            "teacher_kept": float(teachers_cached),
        }
        if self._batches.microbatch_tokens < self._initial_microbatch_tokens:
            # Halved passes stay halved: another cut of a step's rows rounds its gradient differently.
            numbers["microbatch_tokens"] = self._batches.microbatch_tokens
        copies = {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}
        if self._selector is not None:
            copies |= {f"best.{name}": tensor for name, tensor in self._selector.best.items()}
            numbers |= self._selector.numbers()
        return TrainingState(self.step, copies, numbers)

    def restore(self, saved: TrainingState) -> None:
        """Continue from `saved`.

        Raises:
            CheckpointError: it belongs to another model.
        """
        try:
            self._student.load_state_dict(_part(saved.tensors, "student."))
            self._objective.load_state_dict(_part(saved.tensors, "objective."))
        except RuntimeError as error:
            raise CheckpointError(
                f"the state kept at step {saved.step} does not fit this stage's model ({error}); "
                "delete the stage's folder under states/ to restart the stage"
            ) from None
        moments = _part(saved.tensors, "optimizer.")
        for name, parameter in self._parameters.items():
            of_parameter = {
                key.removeprefix(f"{name}."): value.to(parameter.device)
                for key, value in moments.items()
                if key.rpartition(".")[0] == name
            }
            if of_parameter:
                self._optimizer.state[parameter] = of_parameter
        if self._selector is not None:
            self._selector.restore(_part(saved.tensors, "best."), saved.numbers)
        self._meter.sums.copy_(saved.tensors["meter.sums"])
        self._meter.counts.copy_(saved.tensors["meter.counts"])
        self._meter.tokens = int(saved.numbers["meter_tokens"])
        self._meter.padded = int(saved.numbers["meter_padded"])
        self.step, self.num_tokens = saved.step, int(saved.numbers["tokens"])
        self.seconds = float(saved.numbers["seconds"])
        halved = int(saved.numbers.get("microbatch_tokens", self._batches.microbatch_tokens))
        self._batches.microbatch_tokens = min(halved, self._batches.microbatch_tokens)


def shared_state(world: World, states: StateStore) -> TrainingState | None:
    """Return the newest state that the first process reads, in every process; None if there is none.

    A state does not depend on the number of processes: one that two made continues in one or three.
    """
    if world.size == 1:
        return states.latest()
    state = states.latest() if world.rank == 0 else None
    # Names, shapes and numbers as JSON, then the tensors: nothing is pickled.
    text = json.dumps(_description(state)).encode() if state is not None else b""
    (size,) = world.of_first([len(text)])
    if not size:
        return None
    sent = torch.zeros(int(size), dtype=torch.uint8)
    if state is not None:
        sent = torch.tensor(list(text), dtype=torch.uint8)
    world.copy_first([sent])
    description = json.loads(bytes(sent.tolist()))
    tensors = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in description["tensors"].items()
    }
    if state is not None:
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    world.copy_first(list(tensors.values()))
    return TrainingState(description["step"], tensors, description["numbers"])


def _description(state: TrainingState) -> dict[str, object]:
    shapes = {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.tensors.items()
    }
    return {"step": state.step, "numbers": dict(state.numbers), "tensors": shapes}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
