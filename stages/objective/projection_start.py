"""First values of projections that no earlier stage has trained (`projection_start` of a latent objective).

- `channels`: a student extracted from its teacher has channel i of its states from channel c_i of the teacher, so that
  W[c_i, i] = 1, and 0 elsewhere, with bias 0 places every channel where the teacher has it.
- `least_squares`: W and b of the best affine map from the student's states to the teacher's, on training text, over the
  tokens that the terms compare; a map that several terms or blocks share is fitted to all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.core.errors import ConfigError
from stages.data.batching.tokens import Batch, Tokens
from stages.losses import pool_states
from stages.models.projections import select_channels
from stages.models.read import drawn_text, evaluated, reading_batches
from stages.models.sentence_encoder import Model
from stages.models.starts.least_squares import LeastSquares
from stages.objective.latent_terms import ProjectedPair, projected_pairs
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Needs, run_model


def start_projections(
    objective: ObjectiveTerms,
    student: Model,
    teachers: Sequence[Model],
    text: Tokens,
    *,
    channels: Sequence[int] | None,
    seed: int,
    parent: Path | None,
) -> None:
    """Give the objective's fresh projections their first values, in place.

    Args:
        objective: the stage's; projections of earlier stages are left alone.
        student: before training.
        teachers: of the objective, in its order.
        text: training text of the stage.
        channels: the first teacher's channel of each student channel; None if they are not known.
        seed: draws the text that is read.
        parent: checkpoint that the student continues from, for messages.

    Raises:
        ConfigError: channels are asked for and not known.
    """
    latent = objective.objective.latent
    if latent is None or latent.projection_start == "random" or not objective.fresh:
        return
    if latent.projection_start == "least_squares":
        for index, teacher in enumerate(teachers):
            _fit(objective, index, (student, teacher), text, drawn_text(text, seed))
        return
    for _, name, linear in objective.fresh:
        if channels is not None:
            select_channels(linear, channels)
        elif linear.in_features != linear.out_features:  # equal widths: the identity
            raise unknown_channels([name], parent)


def unknown_channels(names: Iterable[str], parent: Path | None, *, stage: str | None = None) -> ConfigError:
    """Return the error of a checkpoint whose channels in the teacher are needed and not known."""
    path = "objective" if stage is None else f"stages.{stage}.objective"
    return ConfigError(
        f"{path}.projection_start: channels, but {parent} does not say which channels of the teacher the student "
        f"has (its extraction.json is missing or has no hidden_channels), and it has no projection of "
        f"{', '.join(names)}; set projection_start to least_squares or random, or continue from a checkpoint of an "
        "extracted student that this version wrote"
    )


@torch.no_grad()
def _fit(
    objective: ObjectiveTerms, index: int, models: tuple[Model, Model], text: Tokens, rows: NDArray[np.int64]
) -> None:
    """Fit the fresh projections from a student to one teacher, both in fp32 and without dropout."""
    latent = objective.objective.latent
    assert latent is not None
    fits = {name: (linear, LeastSquares()) for number, name, linear in objective.fresh if number == index}
    pairs = projected_pairs(latent, objective.student_config, objective.teacher_configs[index])
    needs = (
        Needs(hidden=frozenset(pair.student for pair in pairs)),
        Needs(hidden=frozenset(chain.from_iterable(pair.teacher for pair in pairs))),
    )
    with evaluated(*models):
        for positions, on_cpu in reading_batches(text, rows):
            batch = objective.prepare(on_cpu, rows[positions], step=0).to(models[0].device)
            student, teacher = (run_model(model, batch, need).hidden for model, need in zip(models, needs, strict=True))
            for pair in pairs:
                name = "shared" if latent.projection == "shared" else pair.name
                if name in fits:
                    wanted = torch.stack([teacher[number] for number in pair.teacher]).mean(0)
                    fits[name][1].add(*(_compared(pair, states, batch) for states in (student[pair.student], wanted)))
    for linear, fit in fits.values():
        weight, bias = fit.solved()
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


def _compared(pair: ProjectedPair, states: Tensor, batch: Batch) -> Tensor:
    """(rows or tokens, width): the states that a term compares."""
    pooled, mask = pool_states(states, batch.attention_mask, pooling=pair.pooling)
    return pooled[mask.bool()]
