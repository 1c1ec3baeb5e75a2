"""One optimizer step after another; stages/training/fit.py drives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from schemas.core.errors import NonFiniteLossError, OutOfMemoryError
from schemas.core.training import Training
from stages.data.batching.batches import Batches, padded_tokens, torn_step
from stages.data.batching.seeds import stage_seed
from stages.data.batching.tokens import Batch, Tokens
from stages.device.int8_simulation import simulate_int8
from stages.device.runtime import Runtime, is_out_of_memory
from stages.losses import Summed
from stages.models.dropout import Draws
from stages.models.heads import body_parameters
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Outputs, Target, run_model
from stages.ports.protocols import Ports
from stages.training.divisors import Divisors
from stages.training.gradients import first_rows, gradient_norms, gradient_shares, perturbed_embeddings, spread_rows
from stages.training.meter import Meter
from stages.training.optimizer import freeze, head_steps, learning_rate, make_optimizer, named_parameters
from stages.training.selection import Selector
from stages.training.teachers import Teachers
from stages.training.train_state import TrainState

# Terms or parameters that a message names.
_NAMED = 4


class StepAbandoned(Exception):
    """Raised when a stop is requested within a step of several forward passes: a later process takes the step."""


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
        self.tokens, self.training, self.ports = tokens, training, ports
        int8 = training.teacher_precision == "int8"
        self.teachers = Teachers(teachers, objective, tokens, self.runtime, int8=int8)
        self.runtime.trained(objective)
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
            StepAbandoned: a stop was requested between two microbatches; the step has not happened.
        """
        tokens = self.gradient()
        norm = self.clip()
        self.check_finite(norm)
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
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, so that the exception no longer holds tensors of the failed pass.
            self.optimizer.zero_grad(set_to_none=True)
            self.make_passes_smaller()

    def make_passes_smaller(self) -> None:
        """Halve the largest forward pass of this step; losses are summed, so the gradient does not change."""
        step = self.state.step
        largest = max(padded_tokens(self.tokens.lengths, [rows]) for rows in self.batches.step(step))
        if self.objective.couples_rows or not self.batches.can_be_cut(step):
            raise OutOfMemoryError(
                f"out of memory at step {step}, in a forward pass of {largest} tokens that cannot be cut: reduce "
                "training.batch or the data's max_length, or use a smaller student or fewer layers in the objective"
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
        counts = [self.objective.counts(batch) for batch in batches]
        batches = [batch.to(self.runtime.device) for batch in batches]
        whole = {key: sum(count[key] for count in counts) for key in self.meter.keys}
        self.objective.note_initial(batches, whole, self.teachers.target, self.losses)
        self.measure_balance()
        weights = self.objective.weights()
        divisors = self.divisors.of_step(self.objective.terms, epoch, batches, whole)
        totals: list[dict[str, Tensor]] = []
        for batch, target in zip(batches, self.objective.targets(batches, self.teachers.target), strict=True):
            if totals and self.ports.stop_requested():
                raise StepAbandoned
            totals.append(self.backward(batch, target, divisors, weights))
        self.measure_shares(batches[0])
        # Recorded only after the whole step fitted into memory.
        for batch, total, count in zip(batches, totals, counts, strict=True):
            self.meter.add(total, count)
            self.meter.tokens += batch.num_tokens
            self.meter.padded += batch.input_ids.numel()
        return sum(batch.num_tokens for batch in batches)

    def microbatches(self) -> list[Batch]:
        """Return the step's rows, cut to fit into forward passes, on the CPU.

        Raises:
            ConfigError: the rows do not fit into one forward pass, and the objective compares rows with each other.
        """
        cuts = self.batches.step(self.state.step)
        if len(cuts) > 1 and self.objective.couples_rows:
            raise torn_step(self.training.batch, len(cuts), self.batches.microbatch_tokens)
        return [self.objective.prepare(self.tokens.batch(rows), rows, step=self.state.step) for rows in cuts]

    def losses(self, batch: Batch, target: Target | None) -> dict[str, Summed]:
        """Run the student on a microbatch and return each term's sum and count, by the term's key."""
        with self.draws.of(self.state.step, batch), self.runtime.autocast():
            return self.objective.compute(self.answers(batch), target, batch)

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
            with perturbed_embeddings(self.student, forward, batch, length=length):
                loss, totals = forward()
        self.runtime.accelerator.backward(loss)
        return totals

    def measure_balance(self) -> None:
        """At intervals, measure the gradients by which `normalize: gradient_share` weights the terms of this step."""
        balance, step = self.objective.balance, self.state.step
        age = step - self.head_steps  # no latent term moves a frozen body
        if balance is None or age < 0 or not balance.is_due(age):
            return
        rows = spread_rows(np.concatenate(self.batches.step(step)), self.tokens.lengths)
        batch = self.objective.prepare(self.tokens.batch(rows), rows, step=step).to(self.runtime.device)
        with self.draws.of(step, batch), self.runtime.autocast():
            losses = self.objective.balanced_losses(self.answers(batch), self.teachers.target(batch), batch)
        # Projections belong to one term each: their gradients compete with no other term's.
        shared = [parameter for name, parameter in self.parameters.items() if name.startswith("student.")]
        balance.note(age, gradient_norms(losses, shared))

    def measure_shares(self, batch: Batch) -> None:
        """Every `gradient_share_every` steps, log each term's share of the gradient on some rows of the step."""
        every, step = self.ports.gradient_share_every, self.state.step
        if every is None or step % every or len(self.meter.keys) < 2:
            return
        rows = first_rows(batch)
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

    def check_finite(self, norm: float) -> None:
        """Refuse to step the optimizer on a NaN or infinite gradient.

        Raises:
            NonFiniteLossError: names the step, and the terms or parameters.
        """
        if math.isfinite(norm):
            return
        # Earlier steps of the interval were finite, or this one would not have begun.
        causes = [f"{key} is {mean}" for key, mean in self.meter.means().items() if not math.isfinite(mean)]
        if not causes:
            causes = [
                f"no loss but the gradient of {name}"
                for name, parameter in self.parameters.items()
                if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
            ]
        more = f" and {len(causes) - _NAMED} more" if len(causes) > _NAMED else ""
        raise NonFiniteLossError(
            f"loss or gradient is not finite at step {self.state.step}: {', '.join(causes[:_NAMED])}{more}; the "
            "optimizer was not stepped and the last state is kept: lower training.optimizer.learning_rate, set "
            "training.precision to fp32, or check the teacher and the rows of this step"
        )

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
