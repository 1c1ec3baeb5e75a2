"""One optimizer step after another; stages/training/fit.py drives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from schemas.core.errors import OutOfMemoryError
from schemas.core.training import Training
from stages.data.batching.batches import Batches, padded_tokens, torn_step
from stages.data.batching.seeds import stage_seed
from stages.data.batching.tokens import Batch, Tokens
from stages.device.int8_simulation import simulate_int8
from stages.device.runtime import Runtime, is_out_of_memory
from stages.losses import Summed
from stages.models.dropout import Draws
from stages.models.heads import body_parameters
from stages.models.tensors import tensors_of
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Outputs, Target, run_model, with_whole_pools
from stages.ports.protocols import Ports
from stages.training.coupling import Coupling
from stages.training.divisors import Divisors, StepSize
from stages.training.gradients import first_rows, gradient_norms, gradient_shares, perturbed_embeddings, spread_rows
from stages.training.meter import Meter, non_finite
from stages.training.optimizer import freeze, head_steps, learning_rate, make_optimizer, named_parameters
from stages.training.selection import Selector
from stages.training.teachers import Teachers
from stages.training.train_state import TrainState

Result = TypeVar("Result")


class StepAbandoned(Exception):
    """Raised when a stop is requested within a step of several forward passes: a later process takes the step."""


class _PassTooLarge(Exception):
    """Raised in all processes when memory ran out in one of them, and smaller passes may fit."""


class Trainer:
    """Takes the optimizer steps of one training run."""

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        tokens: Tokens,
        objective: ObjectiveTerms,
        training: Training,
        ports: Ports,
        stage: str,
        selector: Selector | None = None,
    ) -> None:
        self.runtime = Runtime(training.precision)
        self.student = self.runtime.trained(student)
        if training.simulated_precision == "int8":
            simulate_int8(self.student)
        self.objective = objective
        self.tokens, self.training, self.ports, self.world = tokens, training, ports, ports.world
        int8 = training.teacher_precision == "int8"
        shards = ports.shards_teacher
        self.teachers = Teachers(teachers, objective, tokens, self.runtime, int8=int8, shards=shards)
        self.runtime.trained(objective)
        self.world.copy_first([*tensors_of(self.student), *tensors_of(objective)])
        self.batches = Batches.of_stage(tokens, training, stage, microbatch_tokens=ports.microbatch_tokens)
        self.divisors = Divisors(tokens, self.batches)
        self.num_steps = self.batches.num_steps(training.duration)
        freeze(self.student, training)
        self.head_steps = head_steps(training, self.num_steps)
        self.body = body_parameters(self.student) if self.head_steps else []
        self.parameters = dict(named_parameters(self.student, self.objective))
        self.optimizer = make_optimizer(self.parameters, training.optimizer, self.runtime.device)
        self.draws = Draws(self.student, stage_seed(training.seed, stage))
        self.draws.inspect(self.answers, tokens, self.runtime.device)
        self.meter = Meter((term.key for term in objective.terms), self.runtime.device)
        self.metrics: dict[str, float] = {}
        """Last value of every training metric."""
        self.state = TrainState(
            self.student, objective, self.parameters, self.optimizer, self.meter, self.batches, selector
        )

    @property
    def trains_head_alone(self) -> bool:
        """True if the body is frozen in the next step."""
        return self.state.step < self.head_steps

    def answers(self, batch: Batch) -> Outputs:
        """Run the student's forward pass."""
        return run_model(self.student, batch, self.objective.student_needs)

    def train_step(self) -> None:
        """Take one optimizer step: all microbatches, then clip, check, update.

        Raises:
            NonFiniteLossError: the gradient is NaN or infinite; the optimizer was not stepped.
            StepAbandoned: a stop was requested between two microbatches; the step has not happened.
        """
        tokens = self.gradient()
        norm = self.clip()
        if not math.isfinite(norm):
            raise non_finite(self.state.step, self.meter.means(), self.parameters)
        rate = learning_rate(self.training, self.state.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.num_tokens += tokens
        self.state.step += 1
        self.metrics["train/learning_rate"] = rate
        self.metrics["train/gradient_norm"] = norm

    def gradient(self) -> int:
        """Leave the step's gradient in the parameters, halving the forward passes while memory runs out.

        Raises:
            OutOfMemoryError: a forward pass cannot be made smaller.
        """
        while True:
            try:
                return self.accumulate()
            except _PassTooLarge:
                self.optimizer.zero_grad(set_to_none=True)
                self.make_passes_smaller()

    def together(self, work: Callable[[], Result]) -> Result:
        """Do this process's part of a step, without talking to other processes; all fail where one fails.

        Raises:
            StepAbandoned: a stop was requested between two microbatches.
            OutOfMemoryError: memory ran out, and the pass cannot be made smaller.
        """
        result, stopped, too_large = None, False, False
        try:
            result = work()
        except StepAbandoned:
            stopped = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            too_large = True
        # Outside the handler, so that the exception no longer holds tensors of the failed pass.
        if too_large and (self.objective.couples_rows or self.teachers.are_divided):
            self.make_passes_smaller()
        any_stopped, any_too_large = self.world.summed([stopped, too_large])
        if any_stopped:
            raise StepAbandoned
        if any_too_large:
            raise _PassTooLarge
        return cast(Result, result)

    def make_passes_smaller(self) -> None:
        """Halve the largest forward pass of this step; losses are summed, so the gradient does not change."""
        step, size = self.state.step, self.world.size
        passes = [rows for share in self.batches.shares(step, size) for rows in share]
        largest = max(padded_tokens(self.tokens.lengths, [rows]) for rows in passes)
        # With divided teachers, other processes already wait within their passes.
        if self.teachers.are_divided or self.objective.couples_rows or not self.batches.can_be_cut(step, size):
            raise OutOfMemoryError(
                f"out of memory at step {step}, in a forward pass of {largest} tokens that cannot be cut: reduce "
                "training.batch or the data's max_length, or use a smaller student or fewer layers in the objective"
                + "; or, as the teacher is sharded, execution.microbatch_tokens"
                * self.teachers.are_divided
            )
        self.batches.microbatch_tokens = largest // 2
        self.ports.progress.note(
            f"out of memory at step {step} with {largest} tokens in one forward pass: continuing with {largest // 2}, "
            f"which gives the same gradient; set execution.microbatch_tokens={largest // 2} to avoid the failed attempt"
        )

    def accumulate(self) -> int:
        """Leave the whole step's gradient in the parameters; return the number of real tokens.

        Raises:
            StepAbandoned: a stop was requested between two microbatches.
        """
        for parameter in self.body:
            # Without a gradient, AdamW neither moves nor decays a parameter, and its moments begin later.
            parameter.requires_grad_(not self.trains_head_alone)
        epoch = self.batches.epoch_of(self.state.step)
        self.objective.begin(epoch=epoch, progress=self.state.step / self.num_steps)
        batches = self.microbatches()
        # Counted before the transfer: reading a number back from an accelerator waits for all its pending work.
        whole, size = self.counted(batches)
        batches = self.together(lambda: [batch.to(self.runtime.device) for batch in batches])
        if self.objective.wants_initial:
            self.measure_initial(batches, whole)
        self.measure_balance()
        weights = self.objective.weights()
        divisors = self.divisors.of_step(self.objective.terms, epoch, size, whole)
        sums = self.together(lambda: self.passes(batches, divisors, weights))
        self.sum_up(sums)
        # Recorded only after the whole step fitted into memory.
        self.meter.add(dict(zip(self.meter.keys, sums, strict=True)), whole)
        self.meter.tokens += size.tokens
        self.meter.padded += size.padded
        return size.tokens

    def microbatches(self) -> list[Batch]:
        """Return this process's rows of the step, cut to fit into forward passes, on the CPU.

        If rows are compared, they are all rows of the step, of which every process runs a part.

        Raises:
            ConfigError: the rows do not fit into one forward pass, and the objective compares rows with each other.
        """
        return self.microbatches_of(self.world.rank)

    def microbatches_of(self, rank: int) -> list[Batch]:
        """Return the microbatches of any process."""
        step, size = self.state.step, self.world.size
        cuts = self.batches.step(step, rank, size)
        if self.objective.couples_rows:
            passes = max(map(len, self.batches.shares(step, size)))
            if passes > 1:
                raise torn_step(self.training.batch, passes, self.batches.microbatch_tokens)
            cuts = [self.batches.whole_step(step)]
        return [self.objective.prepare(self.tokens.batch(rows), rows, step=step) for rows in cuts]

    def counted(self, batches: Sequence[Batch]) -> tuple[dict[str, int], StepSize]:
        """Return each term's count over the whole step, by the term's key, and the step's size."""
        counts = [self.objective.counts(batch) for batch in batches]
        whole = {key: sum(count[key] for count in counts) for key in self.meter.keys}
        size = StepSize.of(batches)
        if self.objective.couples_rows:  # every process has the whole step
            return whole, size
        *of_terms, rows, tokens, padded = map(int, self.world.summed([*whole.values(), *astuple(size)]))
        return dict(zip(whole, of_terms, strict=True)), StepSize(rows, tokens, padded)

    def targets(self, batches: Sequence[Batch]) -> Iterable[Target | None]:
        """Return the targets of this process's microbatches, read one at a time, or all first if a term needs the pool.

        The pool is made in every process, from the rows of all.
        """
        if not self.objective.needs_pool:
            return map(self.target, batches)
        rank, first, targets = self.world.rank, 0, list[Target]()
        for other in range(self.world.size):
            if other == rank:
                first, of_process = len(targets), batches
            else:
                of_process = [batch.to(self.runtime.device) for batch in self.microbatches_of(other)]
            targets += [target for batch in of_process if (target := self.target(batch)) is not None]
        return with_whole_pools(targets)[first : first + len(batches)]

    def target(self, batch: Batch) -> Target | None:
        """Return the teachers' outputs for a microbatch."""
        coupling = self.coupling(batch)
        return self.teachers.target(batch if coupling is None else coupling.part, coupling)

    def coupling(self, batch: Batch) -> Coupling | None:
        """Return how processes share a step whose rows are compared; None if each row is computed by itself."""
        return Coupling(self.world, batch) if self.world.size > 1 and self.objective.couples_rows else None

    def passes(self, batches: Sequence[Batch], divisors: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
        """Run forward and backward on this process's microbatches; return the sums of the terms.

        Raises:
            StepAbandoned: a stop was requested between two microbatches.
        """
        sums = torch.zeros_like(self.meter.sums)
        for number, (batch, target) in enumerate(zip(batches, self.targets(batches), strict=True)):
            if number and not self.teachers.are_divided and self.ports.stop_requested():
                raise StepAbandoned
            sums += self.meter.stacked(self.backward(batch, target, divisors, weights))
        self.keep_pace(batches)
        self.measure_shares(batches)
        return sums

    def keep_pace(self, batches: Sequence[Batch]) -> None:
        """Run divided teachers as often as the other processes in this step, after this process's passes."""
        # With a pool every process runs them for all rows, and coupled rows are one pass.
        if self.teachers.are_divided and not (self.objective.needs_pool or self.objective.couples_rows):
            most = max(map(len, self.batches.shares(self.state.step, self.world.size)))
            self.teachers.keep_pace(len(batches), most)

    def sum_up(self, sums: Tensor) -> None:
        """Add up gradients and the terms' sums over the processes."""
        if self.world.rank and self.objective.couples_rows:
            # Every process has the loss of the whole step, and with it the whole gradient of the projections.
            sums.zero_()
            for parameter in self.objective.parameters():
                parameter.grad = None
        self.world.sum_gradients(list(self.parameters.values()))
        self.world.sum_tensors([sums])

    def losses(self, batch: Batch, target: Target | None) -> dict[str, Summed]:
        """Run the student on a microbatch and return each term's sum and count, by the term's key."""
        coupling = self.coupling(batch)
        part = batch if coupling is None else coupling.part
        with self.draws.of(self.state.step, part), self.runtime.autocast():
            outputs = self.answers(part)
            return self.objective.compute(outputs if coupling is None else coupling.gathered(outputs), target, batch)

    def backward(
        self, batch: Batch, target: Target | None, divisors: Mapping[str, float], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Run forward and backward on a microbatch, each term's sum divided by its divisor."""

        def forward() -> tuple[Tensor, dict[str, Tensor]]:
            totals = {key: loss.total for key, loss in self.losses(batch, target).items()}
            loss = sum(weights[key] * total / (divisors[key] or 1) for key, total in totals.items())
            assert isinstance(loss, Tensor)
            return loss, totals

        length = self.training.gradient_perturbation
        if length is None:
            loss, totals = forward()
        else:
            coupling = self.coupling(batch)
            part = batch if coupling is None else coupling.part
            with perturbed_embeddings(self.student, forward, part, length=length):
                loss, totals = forward()
        self.runtime.accelerator.backward(loss)
        return totals

    def measure_initial(self, batches: Sequence[Batch], whole: Mapping[str, int]) -> None:
        """In the first step, measure the terms that are divided by their first value."""

        @torch.no_grad()
        def measure() -> dict[str, float]:
            means = dict.fromkeys(whole, 0.0)
            for batch, target in zip(batches, self.targets(batches), strict=True):
                for key, loss in self.losses(batch, target).items():
                    means[key] += float(loss.total) / max(whole[key], 1)
            self.keep_pace(batches)
            return means

        means = self.together(measure)
        over_all = self.world.of_first if self.objective.couples_rows else self.world.summed
        self.objective.note_initial(dict(zip(means, over_all(list(means.values())), strict=True)))

    def measure_balance(self) -> None:
        """At intervals, measure the gradients by which `normalize: gradient_share` weights the terms of this step."""
        balance = self.objective.balance
        age = self.state.step - self.head_steps  # no latent term moves a frozen body
        if balance is None or age < 0 or not balance.is_due(age):
            return
        norms = self.together(self.balanced_norms)
        # All processes measure the same rows, but need the same bits.
        balance.note(age, dict(zip(norms, self.world.of_first(list(norms.values())), strict=True)))

    def balanced_norms(self) -> dict[str, float]:
        """Return the norm of each balanced term's gradient on some rows of the step, by name."""
        step = self.state.step
        rows = spread_rows(self.batches.whole_step(step), self.tokens.lengths)
        batch = self.objective.prepare(self.tokens.batch(rows), rows, step=step).to(self.runtime.device)
        with self.draws.of(step, batch), self.runtime.autocast():
            losses = self.objective.balanced_losses(self.answers(batch), self.teachers.target(batch), batch)
        # Projections belong to one term each: their gradients compete with no other term's.
        shared = [parameter for name, parameter in self.parameters.items() if name.startswith("student.")]
        return gradient_norms(losses, shared)

    def measure_shares(self, batches: Sequence[Batch]) -> None:
        """Every `gradient_share_every` steps, log each term's share of the gradient on some rows of the step."""
        every, step = self.ports.gradient_share_every, self.state.step
        if every is None or step % every or len(self.meter.keys) < 2:
            return
        if not batches:
            return self.teachers.keep_pace(0, 1)
        rows = first_rows(batches[0])
        with self.draws.of(step, rows):
            shares = gradient_shares(
                self.student, self.teachers.models, self.objective, rows, self.runtime, self.parameters
            )
        self.ports.sink.log(step, {f"train/gradient_share/{key}": value for key, value in shares.items()})

    def clip(self) -> float:
        """Clip the gradient of student and projections together; return its norm before clipping."""
        parameters = list(self.parameters.values())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        norm, limit = float(total), self.training.gradient_clip_norm
        # Below the limit, clipping would multiply every gradient by 1.
        if limit is not None and norm > limit:
            nn.utils.clip_grads_with_norm_(parameters, limit, total)
        return norm

    def log(self, elapsed: float) -> None:
        """Log the interval's means and begin a new interval, `elapsed` seconds after the last."""
        terms = self.meter.means()
        curves: dict[str, float] = {}
        for term in self.objective.terms:
            curves[term.curve] = curves.get(term.curve, 0.0) + terms[term.key]
        weights = self.objective.weights()
        self.metrics |= {f"train/{key}": value for key, value in (terms | curves).items()}
        self.metrics |= {f"train/weight_factor/{name}": factor for name, factor in self.objective.factors().items()}
        self.metrics["train/loss"] = sum(weights[key] * mean for key, mean in terms.items())
        self.metrics["train/tokens"] = float(self.state.num_tokens)
        self.metrics["train/tokens_per_second"] = self.meter.tokens / max(elapsed, 1e-9)
        self.metrics["train/padding_ratio"] = 1.0 - self.meter.tokens / max(self.meter.padded, 1)
        self.ports.sink.log(self.state.step, self.metrics)
        self.meter.reset()
