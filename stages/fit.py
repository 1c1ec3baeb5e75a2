"""The only training loop. It does not know which stage it runs: student, teacher, data and objective are handed in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from schemas.errors import Interrupted
from schemas.training import Training
from stages.objectives import ObjectiveTerms
from stages.ports import Ports
from stages.runtime import return_freed_memory
from stages.saving import StateWriter
from stages.tokens import Tokens
from stages.trainer import Trainer


@dataclass(frozen=True)
class Fitted:
    """What a finished loop has to say."""

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
) -> Fitted:
    """Train `student` (and the objective's projections) in place, going on from the newest kept state.

    Raises:
        NonFiniteLossError: a loss or gradient is NaN or infinite; the optimizer was not stepped.
        Interrupted: somebody asked to stop; the state is kept.
    """
    trainer = Trainer(student, teachers, tokens, objective, training, ports)
    if (state := ports.states.latest()) is not None:
        trainer.restore(state)
        ports.progress.note(
            f"{description}: going on from step {state.step} of {trainer.num_steps}"
        )
    trainer.ask_teachers_once(description)
    ports.progress.start(description, trainer.num_steps, trainer.step)
    with StateWriter(ports.states) as writer:
        _train_to_the_end(trainer, writer, description)
    for cache in trainer.caches:
        cache.remove()
    return_freed_memory()
    return Fitted(trainer.step, trainer.num_tokens, trainer.seconds, dict(trainer.metrics))


def _train_to_the_end(trainer: Trainer, writer: StateWriter, description: str) -> None:
    ports = trainer.ports
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
        if trainer.step == trainer.num_steps:
            return
        # Asked in every step, so that a disk that refused a state is told of at once.
        is_writing = writer.busy
        stop = ports.stop_requested()
        if stop or (now - saved >= 60 * ports.state_minutes and not is_writing):
            writer.save(trainer.state())
            saved = now
        if stop:
            writer.wait()
            raise Interrupted(
                f"stopped at step {trainer.step} of {trainer.num_steps} of {description}; state kept"
            )
