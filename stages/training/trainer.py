"""One optimizer step after another, and the state between two of them; stages/training/fit.py drives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from schemas.core.errors import CheckpointError, NonFiniteLossError, OutOfMemoryError
from schemas.core.training import Training
from stages.data.batching.batches import Batches, padded_tokens, torn_step
from stages.data.batching.tokens import Batch, Tokens
from stages.device.runtime import Runtime, is_out_of_memory
from stages.models.dropout import Draws
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Needs, Outputs, Pool, Target, run_model
from stages.ports.protocols import Ports, TrainingState
from stages.training.gradients import first_rows, gradient_shares, perturbed_embeddings
from stages.training.meter import Meter
from stages.training.optimizer import learning_rate_factor, make_optimizer, named_parameters
from stages.training.selection import Selector
from stages.training.teacher_cache import TeacherCache, filled_caches, pays
from stages.training.truncate import shorten

# Terms or parameters that a message names.
_NAMED = 4


class Trainer:
    """State of one training run; `fit` drives it."""

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        tokens: Tokens,
        objective: ObjectiveTerms,
        training: Training,
        ports: Ports,
        selector: Selector | None = None,
    ) -> None:
        self.runtime = Runtime(training.precision)
        self.student = self.runtime.trained(student)
        self.teachers = [self.runtime.frozen(teacher) for teacher in teachers]
        self.objective = objective
        self.runtime.trained(objective)
        self.tokens, self.training, self.ports = tokens, training, ports
        self.selector = selector
        self.batches = Batches(
            tokens.lengths,
            training.batch,
            microbatch_tokens=ports.microbatch_tokens,
            seed=training.seed,
            mixture=tokens.mixture,
            choice_of=tokens.choice_of,
        )
        self.num_steps = self.batches.num_steps(training.duration)
        self.parameters = dict(named_parameters(self.student, self.objective))
        self.optimizer = make_optimizer(self.parameters, training.optimizer, self.runtime.device)
        self.shorten_teachers()
        self.draws = Draws(self.student, training.seed)
        self.draws.look_at(self.answers, tokens, self.runtime.device)
        self.caches: list[TeacherCache] = []
        self.meter = Meter((term.key for term in objective.terms), self.runtime.device)
        self.step = 0
        self.num_tokens = 0
        self.seconds = 0.0
        self.metrics: dict[str, float] = {}

    def shorten_teachers(self) -> None:
        """Let the teachers run no further than what is read of them."""
        if self.objective.redrawn:  # another epoch's map may read any block
            return
        sample = self.tokens.batch(np.arange(min(2, len(self.tokens)))).to(self.runtime.device)
        with self.runtime.autocast():
            for index, teacher in enumerate(self.teachers):
                shorten(teacher, self.objective.teacher_needs(index), sample)

    def answers(self, batch: Batch) -> Outputs:
        """The student's forward pass."""
        return run_model(self.student, batch, self.objective.student_needs)

    def train_step(self) -> None:
        """One optimizer step: all its microbatches, then clip, check, update."""
        tokens = self.gradient()
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

    def gradient(self) -> int:
        """Leave the step's gradient in the parameters, in smaller forward passes where memory runs out.

        Raises:
            OutOfMemoryError: they cannot be smaller.
        """
        while True:
            try:
                return self.accumulate()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here, so that the exception holds on to no tensor of the pass that was too large.
            self.optimizer.zero_grad(set_to_none=True)
            self.make_passes_smaller()

    def make_passes_smaller(self) -> None:
        """Halve the largest forward pass of this step; losses are summed, so the gradient stays what it was."""
        cuts = self.batches.step(self.step)
        largest = max(padded_tokens(self.tokens.lengths, [rows]) for rows in cuts)
        if self.objective.couples_rows or not self.batches.can_be_cut(self.step):
            raise OutOfMemoryError(
                f"out of memory at step {self.step}, in a forward pass of {largest} tokens that cannot be cut: make "
                "training.batch or the data's max_length smaller, or the student or the objective's layers fewer"
            )
        self.batches.microbatch_tokens = largest // 2
        self.ports.progress.note(
            f"out of memory at step {self.step} with {largest} tokens in one forward pass: going on with "
            f"{largest // 2}, to the same gradient; execution.microbatch_tokens={largest // 2} spares the attempt"
        )

    def accumulate(self) -> int:
        """Leave the whole step's gradient in the parameters; the real tokens that it came from."""
        self.objective.begin(epoch=self.batches.epoch_of(self.step), progress=self.step / self.num_steps)
        batches = self.microbatches()
        # Counted before they are moved: a number that is read back from an accelerator waits for all it has to do.
        counts = [self.objective.counts(batch) for batch in batches]
        batches = [batch.to(self.runtime.device) for batch in batches]
        whole = {key: sum(count[key] for count in counts) for key in self.meter.keys}
        targets = self.pooled(batches) if self.objective.needs_pool else None
        if self.objective.wants_initial:
            self.note_initial(batches, targets, whole)
        weights = self.objective.weights()
        totals = [
            self.backward(batch, targets[place] if targets is not None else self.target(batch), whole, weights)
            for place, batch in enumerate(batches)
        ]
        self.measure_shares(batches[0])
        # Nothing is noted before the whole step fitted into memory.
        for batch, total, count in zip(batches, totals, counts, strict=True):
            self.meter.add(total, count)
            self.meter.tokens += batch.num_tokens
            self.meter.padded += batch.input_ids.numel()
        return sum(batch.num_tokens for batch in batches)

    def microbatches(self) -> list[Batch]:
        """The step's rows, cut to what one forward pass may hold; not yet on the device.

        Raises:
            ConfigError: they are more than one forward pass holds, and the objective compares rows with each other.
        """
        cuts = self.batches.step(self.step)
        if len(cuts) > 1 and self.objective.couples_rows:
            raise torn_step(self.training.batch, len(cuts), self.batches.microbatch_tokens)
        return [self.objective.prepare(self.tokens.batch(rows), rows, step=self.step) for rows in cuts]

    def target(self, batch: Batch) -> Target | None:
        """What the teachers say about one microbatch."""
        if self.caches:
            return self.objective.target_of(tuple(cache.read(batch) for cache in self.caches), batch)
        with self.runtime.autocast():
            return self.objective.read_teachers(self.teachers, batch)

    def ask_teachers_once(self, description: str) -> None:
        """Keep what the teachers say about every row, where more than one epoch asks for it."""
        if not pays(self.batches, self.num_steps):
            return

        def read(teacher: nn.Module, batch: Batch, needs: Needs) -> Outputs:
            with torch.no_grad(), self.runtime.autocast():
                return run_model(teacher, batch, needs)

        self.caches = filled_caches(
            self.teachers, self.tokens, self.objective, read, self.ports, description=description
        )

    def pooled(self, batches: Sequence[Batch]) -> list[Target]:
        """What the teachers say about every microbatch, each told apart from the rows of the whole step."""
        targets = [target for batch in batches if (target := self.target(batch)) is not None]
        pools = [Pool.joined(each) for each in zip(*(target.pools for target in targets), strict=True)]
        starts = np.cumsum([0, *(len(batch.input_ids) for batch in batches)])
        return [
            replace(
                target,
                pools=tuple(
                    replace(pool, own=own.own + int(start)) for pool, own in zip(pools, target.pools, strict=True)
                ),
            )
            for target, start in zip(targets, starts, strict=False)
        ]

    def note_initial(
        self, batches: Sequence[Batch], targets: Sequence[Target] | None, whole: Mapping[str, int]
    ) -> None:
        """Measure every term on the first step's rows, before anything is learnt."""
        means = dict.fromkeys(self.meter.keys, 0.0)
        with torch.no_grad(), self.runtime.autocast():
            for place, batch in enumerate(batches):
                target = targets[place] if targets is not None else self.target(batch)
                with self.draws.of(self.step, batch):
                    output = self.answers(batch)
                for key, loss in self.objective.compute(output, target, batch).items():
                    means[key] += float(loss.total) / max(whole[key], 1)
        self.objective.note_initial(means)

    def measure_shares(self, batch: Batch) -> None:
        """Now and then: which share of the gradient comes from which term, on some rows of the step."""
        every = self.ports.gradient_share_every
        if every is None or self.step % every or len(self.meter.keys) < 2:
            return
        rows = first_rows(batch)
        with self.draws.of(self.step, rows):
            shares = gradient_shares(self.student, self.teachers, self.objective, rows, self.runtime, self.parameters)
        self.ports.sink.log(self.step, {f"train/gradient_share/{key}": value for key, value in shares.items()})

    def backward(
        self, batch: Batch, target: Target | None, whole: Mapping[str, int], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Forward and backward of one microbatch; each term divided by its count over the whole step."""

        def forward() -> tuple[Tensor, dict[str, Tensor]]:
            with self.draws.of(self.step, batch), self.runtime.autocast():
                output = self.answers(batch)
                losses = self.objective.compute(output, target, batch)
            totals = {key: loss.total for key, loss in losses.items()}
            loss = sum(weights[key] * total / max(whole[key], 1) for key, total in totals.items())
            assert isinstance(loss, Tensor)
            return loss, totals

        length = self.training.gradient_perturbation
        if length is None:
            loss, totals = forward()
        else:
            with perturbed_embeddings(self.student, forward, batch, length=length):
                loss, totals = forward()
        self.runtime.accelerator.backward(loss)
        return totals

    def clip(self) -> float:
        """Clip the gradient of student and projections together; its norm before clipping."""
        trained = list(self.parameters.values())
        gradients = [each.grad for each in trained if each.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        norm, limit = float(total), self.training.gradient_clip_norm
        # Clipping to a limit that is kept multiplies every gradient by 1.
        if limit is not None and norm > limit:
            nn.utils.clip_grads_with_norm_(trained, limit, total)
        return norm

    def check_finite(self, norm: float) -> None:
        """Refuse to step the optimizer on a NaN or an infinity, naming step, terms and layers."""
        if math.isfinite(norm):
            return
        # Steps before this one in the interval were finite, or this one would not have been begun.
        wrong = [f"{key} is {mean}" for key, mean in self.meter.means().items() if not math.isfinite(mean)]
        if not wrong:
            wrong = [
                f"no loss but the gradient of {name}"
                for name, parameter in self.parameters.items()
                if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
            ]
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise NonFiniteLossError(
            f"loss or gradient is not finite at step {self.step}: {', '.join(wrong[:_NAMED])}{more}; the optimizer was "
            "not stepped and the last state is kept: lower training.optimizer.learning_rate, set training.precision to "
            "fp32, or look at the teacher and at the rows of this step"
        )

    def log(self, elapsed: float) -> None:
        """Send the interval's means and begin a new interval."""
        terms = self.meter.means()
        curves: dict[str, float] = {}
        for term in self.objective.terms:
            curves[term.curve] = curves.get(term.curve, 0.0) + terms[term.key]
        weights = self.objective.weights()
        total = sum(weights[key] * mean for key, mean in terms.items())
        self.metrics |= {f"train/{key}": value for key, value in (terms | curves).items()}
        self.metrics["train/loss"] = total
        self.metrics["train/tokens"] = float(self.num_tokens)
        self.metrics["train/tokens_per_second"] = self.meter.tokens / max(elapsed, 1e-9)
        self.metrics["train/padding_ratio"] = 1.0 - self.meter.tokens / max(self.meter.padded, 1)
        self.ports.sink.log(self.step, self.metrics)
        self.meter.reset()

    def state(self) -> TrainingState:
        """Everything needed to go on bit for bit, copied: training may go on while it is written."""
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in self.objective.state_dict().items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors |= {"meter.sums": self.meter.sums, "meter.counts": self.meter.counts}
        numbers: dict[str, float] = {
            "tokens": self.num_tokens,
            "seconds": self.seconds,
            "meter_tokens": self.meter.tokens,
            "meter_padded": self.meter.padded,
            "teacher_kept": float(bool(self.caches)),
        }
        if self.batches.microbatch_tokens < self.ports.microbatch_tokens:
            # Passes that were halved once stay so: another cut of a step's rows rounds its gradient otherwise.
            numbers["microbatch_tokens"] = self.batches.microbatch_tokens
        copied = {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}
        if self.selector is not None:
            copied |= {f"best.{name}": tensor for name, tensor in self.selector.best.items()}
            numbers |= self.selector.numbers()
        return TrainingState(self.step, copied, numbers)

    def restore(self, state: TrainingState) -> None:
        """Go back to `state`.

        Raises:
            CheckpointError: it belongs to another model.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in state.tensors.items() if key.startswith(prefix)}

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
        if self.selector is not None:
            self.selector.restore(part("best."), state.numbers)
        self.meter.sums.copy_(state.tensors["meter.sums"])
        self.meter.counts.copy_(state.tensors["meter.counts"])
        self.meter.tokens = int(state.numbers["meter_tokens"])
        self.meter.padded = int(state.numbers["meter_padded"])
        self.step, self.num_tokens = state.step, int(state.numbers["tokens"])
        self.seconds = float(state.numbers["seconds"])
        halved = int(state.numbers.get("microbatch_tokens", self.batches.microbatch_tokens))
        self.batches.microbatch_tokens = min(halved, self.batches.microbatch_tokens)
