"""The only training loop; independent of the stage: student, teachers, data and objective are parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from torch import nn

from schemas.core.errors import Interrupted
from schemas.core.training import Training
from stages.data.batching.tokens import Tokens
from stages.device.runtime import return_freed_memory
from stages.objective.objective import ObjectiveTerms
from stages.ports.protocols import Ports, TrainingState
from stages.training.selection import Selector
from stages.training.state_writer import StateWriter
from stages.training.train_state import shared_state
from stages.training.trainer import StepAbandoned, Trainer


@dataclass(frozen=True)
class TrainingResult:
    """Totals and last metrics of a finished training loop."""

    steps: int
    tokens: int
    seconds: float
    metrics: dict[str, float]


def fit(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    tokens: Tokens,
    objective: ObjectiveTerms,
    training: Training,
    ports: Ports,
    *,
    stage: str,
    selector: Selector | None = None,
) -> TrainingResult:
    """Train `student` and the objective's projections in place, continuing from the newest saved state.

    They end with the best weights by `selector`, or with the last weights without one. The name of the stage seeds its
    draws together with `training.seed`.

    Raises:
        NonFiniteLossError: a loss or gradient is NaN or infinite; the optimizer was not stepped.
        Interrupted: a stop was requested; the state is kept.
    """
    with ports.world.joined():
        trainer = Trainer(student, teachers, tokens, objective, training, ports, stage, selector)
        if (state := shared_state(ports.world, ports.states)) is not None:
            trainer.state.restore(state)
            ports.progress.note(f"{stage}: continuing from step {state.step} of {trainer.num_steps}")
        with ports.shielded(math.inf):
            trainer.teachers.fill_caches(trainer.batches, trainer.num_steps, ports, stage)
            if state is not None:
                _note_other_rounding(trainer, state, stage)
            _announce(trainer, stage)
            with StateWriter(ports.states) as writer:
                _train_to_end(trainer, selector, writer, stage)
    trainer.teachers.remove_caches()
    return_freed_memory()
    metrics = dict(trainer.metrics)
    if selector is not None:
        selector.restore_best(trainer.student, objective)
        metrics |= selector.metrics()
        ports.progress.note(
            f"{stage}: kept the weights of step {selector.best_step}, with the best {selector.title} of "
            f"{selector.best_score:.4f}; training ended at step {trainer.state.step} of {trainer.num_steps}"
        )
    return TrainingResult(trainer.state.step, trainer.state.num_tokens, trainer.state.seconds, metrics)


def _announce(trainer: Trainer, stage: str) -> None:
    progress, step = trainer.ports.progress, trainer.state.step
    if step < trainer.head_steps:
        progress.note(f"{stage}: the head learns alone in the first {trainer.head_steps} of {trainer.num_steps} steps")
    progress.start(stage, trainer.num_steps, step)


def _note_other_rounding(trainer: Trainer, state: TrainingState, description: str) -> None:
    """Tell the user if the rest of the stage reads its teachers differently from its beginning.

    A cached teacher runs on batches of its own, an uncached one on the student's microbatches: neighbouring rows and
    padding decide how a sum is rounded.
    """
    was_cached, is_cached = state.numbers.get("teacher_kept"), bool(trainer.teachers.caches)
    if was_cached is None or bool(was_cached) == is_cached:
        return
    now, before = "runs in every step", "its outputs were cached"
    if is_cached:
        now, before = "has its outputs cached", "it ran in every step"
    trainer.ports.progress.note(
        f"{description}: the teacher {now}; until step {state.step} {before}, so that the last bits of the weights may "
        "differ from those of an uninterrupted stage"
    )


def _train_to_end(trainer: Trainer, selector: Selector | None, writer: StateWriter, description: str) -> None:
    ports, state = trainer.ports, trainer.state
    began = logged = saved = time.monotonic()
    earlier = state.seconds
    while state.step < trainer.num_steps:
        try:
            trainer.train_step()
        except StepAbandoned:
            _stop(trainer, writer, description)
        trained = time.monotonic()
        ended = _select(trainer, selector) or state.step == trainer.num_steps
        now = time.monotonic()
        logged += now - trained  # scoring is not training
        state.seconds = earlier + now - began
        if state.step % ports.log_every == 0 or ended:
            trainer.log(now - logged)
            logged = now
        ports.progress.advance(state.step, trainer.metrics)
        if ended:
            return
        # Checked in every step, so that a disk that refused a state is reported at once.
        is_writing = writer.busy
        if any(ports.world.summed([ports.stop_requested()])):
            _stop(trainer, writer, description)
        if now - saved >= 60 * ports.state_minutes and not is_writing:
            writer.save(state.saved(teachers_cached=bool(trainer.teachers.caches)))
            saved = now


def _stop(trainer: Trainer, writer: StateWriter, description: str) -> NoReturn:
    """Save the state and end the stage as interrupted."""
    state = trainer.state
    writer.save(state.saved(teachers_cached=bool(trainer.teachers.caches)))
    writer.wait()
    raise Interrupted(f"stopped at step {state.step} of {trainer.num_steps} of {description}; state kept")


def _select(trainer: Trainer, selector: Selector | None) -> bool:
    """Score the student if due; True ends training, because its score no longer improves."""
    step = trainer.state.step
    if selector is None or not selector.is_due(step, trainer.batches, trainer.num_steps):
        return False
    trainer.ports.progress.phase("scoring")
    trainer.ports.sink.log(step, selector.measure(step, trainer.student, trainer.objective, trainer.world))
    if step <= trainer.head_steps:
        selector.without_gain = 0  # patience begins with the body
    return selector.is_over
