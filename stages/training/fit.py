"""The only training loop. It does not know which stage it runs: student, teacher, data and objective are handed in."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from schemas.core.errors import Interrupted
from schemas.core.training import Training
from stages.data.batching.tokens import Tokens
from stages.device.runtime import return_freed_memory
from stages.objective.objective import ObjectiveTerms
from stages.ports.protocols import Ports, TrainingState
from stages.training.selection import Selector
from stages.training.state_writer import StateWriter
from stages.training.trainer import Trainer


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
    description: str,
    selector: Selector | None = None,
) -> TrainingResult:
    """Train `student` (and the objective's projections) in place, going on from the newest kept state.

    With a selector they end with their best weights, otherwise with the last.

    Raises:
        NonFiniteLossError: a loss or gradient is NaN or infinite; the optimizer was not stepped.
        Interrupted: somebody asked to stop; the state is kept.
    """
    trainer = Trainer(student, teachers, tokens, objective, training, ports, selector)
    if (state := ports.states.latest()) is not None:
        trainer.restore(state)
        ports.progress.note(f"{description}: going on from step {state.step} of {trainer.num_steps}")
    with ports.shielded(math.inf):
        trainer.ask_teachers_once(description)
        if state is not None:
            _note_other_rounding(trainer, state, description)
        ports.progress.start(description, trainer.num_steps, trainer.step)
        with StateWriter(ports.states) as writer:
            _train_to_the_end(trainer, writer, description)
    for cache in trainer.caches:
        cache.remove()
    return_freed_memory()
    metrics = dict(trainer.metrics)
    if selector is not None:
        selector.restore_best(trainer.student, objective)
        metrics |= selector.metrics()
        ports.progress.note(
            f"{description}: the weights of step {selector.best_step} are kept, with the best {selector.title} of "
            f"{selector.best_score:.4f}; training ended at step {trainer.step} of {trainer.num_steps}"
        )
    return TrainingResult(trainer.step, trainer.num_tokens, trainer.seconds, metrics)


def _note_other_rounding(trainer: Trainer, state: TrainingState, description: str) -> None:
    """Say that the rest of the stage reads its teachers in another way than its beginning did.

    A teacher whose answers are kept is asked in batches of its own, else in the passes of the student: the rows beside
    a row, and its padding, decide how a sum is rounded.
    """
    was_kept, is_kept = state.numbers.get("teacher_kept"), bool(trainer.caches)
    if was_kept is None or bool(was_kept) == is_kept:
        return
    now, before = "is asked in every step", "its answers were kept"
    if is_kept:
        now, before = "has its answers kept", "it was asked in every step"
    trainer.ports.progress.note(
        f"{description}: the teacher {now}; until step {state.step} {before}, so that the last bits of the weights may "
        "differ from those of a stage that was not interrupted"
    )


def _train_to_the_end(trainer: Trainer, writer: StateWriter, description: str) -> None:
    ports = trainer.ports
    began = logged = saved = time.monotonic()
    earlier = trainer.seconds
    while trainer.step < trainer.num_steps:
        trainer.train_step()
        trained = time.monotonic()
        ended = _select(trainer) or trainer.step == trainer.num_steps
        now = time.monotonic()
        logged += now - trained  # what a measurement takes is no training
        trainer.seconds = earlier + now - began
        if trainer.step % ports.log_every == 0 or ended:
            trainer.log(now - logged)
            logged = now
        ports.progress.advance(trainer.step, trainer.metrics)
        if ended:
            return
        # Asked in every step, so that a disk that refused a state is told of at once.
        is_writing = writer.busy
        stop = ports.stop_requested()
        if stop or (now - saved >= 60 * ports.state_minutes and not is_writing):
            writer.save(trainer.state())
            saved = now
        if stop:
            writer.wait()
            raise Interrupted(f"stopped at step {trainer.step} of {trainer.num_steps} of {description}; state kept")


def _select(trainer: Trainer) -> bool:
    """Score the student where that is due; whether nothing is gained any more, so that training ends."""
    selector, step = trainer.selector, trainer.step
    if selector is None or not selector.is_due(step, trainer.batches, trainer.num_steps):
        return False
    trainer.ports.sink.log(step, selector.measure(step, trainer.student, trainer.objective))
    return selector.is_over
