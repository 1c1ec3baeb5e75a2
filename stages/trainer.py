"""The only training loop. It does not know which stage it runs: student, teacher, data and objective are handed in."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schemas.errors import CheckpointError, Interrupted, NonFiniteLossError
from schemas.training import AdamW, Schedule, Training
from stages.batches import Batches
from stages.objectives import ObjectiveTerms, run_model
from stages.ports import Ports, TrainingState
from stages.runtime import Runtime, seed_step
from stages.tokens import Batch, Tokens


@dataclass(frozen=True)
class Fitted:
    """What a finished loop has to say."""

    steps: int
    tokens: int
    seconds: float
    metrics: dict[str, float]


class Meter:
    """Sums of every term since the last logged point, kept on the device until they are read."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(keys)
        self.sums = torch.zeros(len(self.keys), dtype=torch.float64)
        self.counts = torch.zeros(len(self.keys), dtype=torch.float64)
        self.tokens = 0
        self.padded = 0

    def add(self, totals: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Add one microbatch's sums and counts."""
        self.sums += torch.stack([totals[key].detach().double().cpu() for key in self.keys])
        self.counts += torch.tensor([counts[key] for key in self.keys], dtype=torch.float64)

    def means(self) -> dict[str, float]:
        """Each term's mean so far."""
        return dict(zip(self.keys, (self.sums / self.counts.clamp(min=1)).tolist(), strict=True))

    def reset(self) -> None:
        """Begin the next interval."""
        self.sums.zero_()
        self.counts.zero_()
        self.tokens = self.padded = 0


class Trainer:
    """State of one training run; `fit` drives it."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        tokens: Tokens,
        objective: ObjectiveTerms,
        training: Training,
        ports: Ports,
    ) -> None:
        self.runtime = Runtime(training.precision)
        self.student = student.to(self.runtime.device).train()
        self.teacher = self.runtime.frozen(teacher) if teacher is not None else None
        self.objective = objective.to(self.runtime.device).train()
        self.tokens, self.training, self.ports = tokens, training, ports
        self.batches = Batches(
            tokens.lengths,
            training.batch,
            microbatch_tokens=ports.microbatch_tokens,
            seed=training.seed,
        )
        self.num_steps = self.batches.num_steps(training.duration)
        self.parameters = dict(named_parameters(self.student, self.objective))
        self.optimizer = make_optimizer(self.parameters, training.optimizer, self.runtime.device)
        self.meter = Meter(term.key for term in objective.terms)
        self.step = 0
        self.num_tokens = 0
        self.seconds = 0.0
        self.metrics: dict[str, float] = {}

    def train_step(self) -> None:
        """One optimizer step: all its microbatches, then clip, check, update."""
        tokens = self.accumulate()
        norm = self.clip()
        self.check_finite(norm)
        learning_rate = self.training.optimizer.learning_rate * learning_rate_factor(
            self.training.schedule, self.step, self.num_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_tokens += tokens
        self.step += 1
        self.metrics["train/learning_rate"] = learning_rate
        self.metrics["train/gradient_norm"] = norm

    def accumulate(self) -> int:
        """Leave the whole step's gradient in the parameters; the real tokens that it came from."""
        seed_step(self.training.seed, self.step)
        batches = [
            self.tokens.batch(rows).to(self.runtime.device) for rows in self.batches.step(self.step)
        ]
        counts = [self.objective.counts(batch) for batch in batches]
        whole = {key: sum(count[key] for count in counts) for key in self.meter.keys}
        for batch, count in zip(batches, counts, strict=True):
            self.meter.add(self.backward(batch, whole), count)
            self.meter.tokens += batch.num_tokens
            self.meter.padded += batch.input_ids.numel()
        return sum(batch.num_tokens for batch in batches)

    def backward(self, batch: Batch, whole: Mapping[str, int]) -> dict[str, Tensor]:
        """Forward and backward of one microbatch; each term divided by its count over the whole step."""
        with self.runtime.autocast():
            target = None
            if self.teacher is not None:
                with torch.no_grad():
                    target = run_model(self.teacher, batch, self.objective.teacher_needs)
            output = run_model(self.student, batch, self.objective.student_needs)
            losses = self.objective.compute(output, target, batch)
        totals = {key: loss.total for key, loss in losses.items()}
        loss = sum(
            term.weight * totals[term.key] / max(whole[term.key], 1)
            for term in self.objective.terms
        )
        self.runtime.accelerator.backward(loss)
        return totals

    def clip(self) -> float:
        """Clip the gradient of student and projections together; its norm before clipping."""
        limit = self.training.gradient_clip_norm or math.inf
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    def check_finite(self, norm: float) -> None:
        """Refuse to step the optimizer on a NaN or an infinity, naming step and terms."""
        if math.isfinite(norm):
            return
        terms = ", ".join(f"{key}={value:.4g}" for key, value in self.meter.means().items())
        raise NonFiniteLossError(
            f"loss or gradient is not finite at step {self.step} (gradient norm {norm}; {terms}); the optimizer was "
            "not stepped: lower training.optimizer.learning_rate, or set training.precision to fp32"
        )

    def log(self, elapsed: float) -> None:
        """Send the interval's means and begin a new interval."""
        terms = self.meter.means()
        layered: dict[str, float] = {}
        for term in self.objective.terms:
            if term.layer is not None:
                layered[f"{term.name}_loss"] = (
                    layered.get(f"{term.name}_loss", 0.0) + terms[term.key]
                )
        total = sum(term.weight * terms[term.key] for term in self.objective.terms)
        self.metrics |= {f"train/{key}": value for key, value in (terms | layered).items()}
        self.metrics["train/loss"] = total
        self.metrics["train/tokens"] = float(self.num_tokens)
        self.metrics["train/tokens_per_second"] = self.meter.tokens / max(elapsed, 1e-9)
        self.metrics["train/padding_ratio"] = 1.0 - self.meter.tokens / max(self.meter.padded, 1)
        self.ports.sink.log(self.step, self.metrics)
        self.meter.reset()

    def state(self) -> TrainingState:
        """Everything needed to go on bit for bit."""
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        tensors |= {
            f"objective.{name}": tensor for name, tensor in self.objective.state_dict().items()
        }
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors |= {"meter.sums": self.meter.sums, "meter.counts": self.meter.counts}
        numbers = {
            "tokens": self.num_tokens,
            "seconds": self.seconds,
            "meter_tokens": self.meter.tokens,
            "meter_padded": self.meter.padded,
        }
        return TrainingState(
            self.step, {key: value.detach().cpu() for key, value in tensors.items()}, numbers
        )

    def restore(self, state: TrainingState) -> None:
        """Go back to `state`.

        Raises:
            CheckpointError: it belongs to another model.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                key.removeprefix(prefix): value
                for key, value in state.tensors.items()
                if key.startswith(prefix)
            }

        try:
            self.student.load_state_dict(part("student."))
            self.objective.load_state_dict(part("objective."))
        except RuntimeError as error:
            raise CheckpointError(
                f"the state kept at step {state.step} does not fit this stage's model ({error}); "
                "delete the stage's folder under states/ to begin the stage anew"
            ) from None
        moments = part("optimizer.")
        for name, parameter in self.parameters.items():
            own = {
                key.removeprefix(f"{name}."): value.to(parameter.device)
                for key, value in moments.items()
                if key.rpartition(".")[0] == name
            }
            if own:
                self.optimizer.state[parameter] = own
        self.meter.sums.copy_(state.tensors["meter.sums"])
        self.meter.counts.copy_(state.tensors["meter.counts"])
        self.meter.tokens = int(state.numbers["meter_tokens"])
        self.meter.padded = int(state.numbers["meter_padded"])
        self.step, self.num_tokens = state.step, int(state.numbers["tokens"])
        self.seconds = float(state.numbers["seconds"])


def fit(
    student: nn.Module,
    teacher: nn.Module | None,
    tokens: Tokens,
    objective: ObjectiveTerms,
    training: Training,
    ports: Ports,
    *,
    description: str,
) -> Fitted:
    """Train `student` (and the objective's projections) in place, going on from the newest kept state.

    Raises:
        NonFiniteLossError: a loss or gradient is NaN or infinite; the optimizer was not stepped.
        Interrupted: somebody asked to stop; the state is kept.
    """
    trainer = Trainer(student, teacher, tokens, objective, training, ports)
    if (state := ports.states.latest()) is not None:
        trainer.restore(state)
        ports.progress.note(
            f"{description}: going on from step {state.step} of {trainer.num_steps}"
        )
    ports.progress.start(description, trainer.num_steps, trainer.step)
    began = logged = saved = time.monotonic()
    earlier = trainer.seconds
    while trainer.step < trainer.num_steps:
        trainer.train_step()
        now = time.monotonic()
        trainer.seconds = earlier + now - began
        if trainer.step % ports.log_every == 0 or trainer.step == trainer.num_steps:
            trainer.log(now - logged)
            logged = now
        ports.progress.advance(trainer.step, trainer.metrics)
        stop = ports.stop_requested()
        unfinished = trainer.step < trainer.num_steps
        if unfinished and (stop or now - saved >= 60 * ports.state_minutes):
            ports.states.save(trainer.state())
            saved = time.monotonic()
        if stop and unfinished:
            raise Interrupted(
                f"stopped at step {trainer.step} of {trainer.num_steps} of {description}; state kept"
            )
    return Fitted(trainer.step, trainer.num_tokens, trainer.seconds, dict(trainer.metrics))


def named_parameters(
    student: nn.Module, objective: nn.Module
) -> Iterable[tuple[str, nn.Parameter]]:
    """Everything that is trained, under names that stay the same from run to run."""
    for prefix, module in (("student", student), ("objective", objective)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], config: AdamW, device: torch.device
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only: biases and normalisation weights (one dimension) are left alone."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Share of the peak learning rate that optimizer step `step` (0 the first) is taken with.

    Rises linearly to 1 over the warm-up, whose first step already moves; then stays, or falls linearly so that the
    step after the last would have 0.
    """
    warmup = math.ceil(schedule.warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    return (num_steps - step) / max(num_steps - warmup, 1)
