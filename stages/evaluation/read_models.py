"""Reads models: what they make of rows, and their losses on held-out text. In fp32, whatever a stage trained in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.batching.batches import evaluation_batches
from stages.data.batching.choice_groups import Groups
from stages.data.batching.tokens import Batch, Tokens
from stages.data.tasks.stratified import drawn_rows
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Needs, run_model
from stages.scores.scorer import Scorer

EVALUATION_VERSION = 5
"""Raise by hand when a score is computed differently; every judgement made before is then made anew."""

_MICROBATCH_TOKENS = 8192


def _batches(tokens: Tokens, rows: np.ndarray, *, together: bool = False) -> Iterator[tuple[np.ndarray, Batch]]:
    """Places within `rows` and their batch, in order of length; where asked, the choices of a row stand `together`."""
    choice_of = tokens.choice_of[rows] if together and tokens.choice_of is not None else None
    for places in evaluation_batches(tokens.lengths[rows], _MICROBATCH_TOKENS, choice_of):
        yield places, tokens.batch(rows[places])


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Read:
    """What a model makes of some rows, from one pass over them; each row's part by itself."""

    features: list[np.ndarray]
    """(width,) last hidden states averaged over real tokens, or (tokens, width) those of the tokens asked for."""
    logits: list[np.ndarray] | None
    """(outputs,) or (tokens, outputs): the head's answers; None without a head."""


Picked = Callable[[np.ndarray], np.ndarray]
"""Which tokens of some sequences, all real ones one after the other, are kept of a model's last states."""


@torch.no_grad()
def read_rows(model: nn.Module, tokens: Tokens, rows: np.ndarray, picked: Picked | None = None) -> Read:
    """Features, and answers where there is a head, for `rows` in their order.

    Args:
        model: with a head or without one.
        tokens: the sequences.
        rows: which of them.
        picked: for features of tokens: which tokens of a sequence, by the number of the row; None for their mean.
    """
    encoder = getattr(model.eval(), "base_model", model)
    states: list[Tensor] = []
    hook = encoder.register_forward_hook(lambda _m, _i, output: states.append(output.last_hidden_state))
    features: list[np.ndarray] = [np.empty(0)] * len(rows)
    logits: list[np.ndarray] = [np.empty(0)] * len(rows)
    has_head = False
    try:
        for places, batch in _batches(tokens, rows):
            batch = batch.to(_device(model))
            answer = run_model(model, batch, Needs(logits=True)).logits
            mask = batch.attention_mask.bool()
            kept = _features(states.pop(), mask, rows[places], picked)
            for place, own in zip(places, kept, strict=True):
                features[place] = own
            if answer is not None:
                has_head = True
                for index, place in enumerate(places):
                    own_answer = answer[index][mask[index]] if answer.ndim == 3 else answer[index]
                    logits[place] = own_answer.float().cpu().numpy()
    finally:
        hook.remove()
    return Read(features, logits if has_head else None)


def _features(states: Tensor, mask: Tensor, rows: np.ndarray, picked: Picked | None) -> list[np.ndarray]:
    if picked is None:
        weights = mask.unsqueeze(-1)
        pooled = (states.float() * weights).sum(1) / weights.sum(1)
        return list(pooled.cpu().numpy())
    return [
        own[real][torch.from_numpy(picked(rows[[index]])).to(own.device)].float().cpu().numpy()
        for index, (own, real) in enumerate(zip(states, mask, strict=True))
    ]


def answers_of(model: nn.Module, scorer: Scorer, outputs: slice = slice(None)) -> Any:
    """What a model with a head says about a scorer's rows, in the form that the scorer takes.

    Args:
        model: the model.
        scorer: knows the rows.
        outputs: those of the head that are the task's, where several tasks share one.
    """
    logits = read_rows(model, scorer.tokens, scorer.sequences).logits
    assert logits is not None
    return scorer.predictions([row[..., outputs] for row in logits])


@torch.no_grad()
def held_out_losses(
    student: nn.Module, teachers: Sequence[nn.Module], objective: ObjectiveTerms, tokens: Tokens, *, max_rows: int
) -> dict[str, float]:
    """Each term's mean on held-out rows, by name (layers summed), and their weighted sum as `loss`."""
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    student.eval(), objective.eval()
    for teacher in teachers:
        teacher.eval()
    groups = Groups(tokens.lengths, tokens.choice_of)
    rows = groups.sequences(drawn_rows(len(groups), max_rows))
    for places, batch in _batches(tokens, rows, together=True):
        batch = objective.prepare(batch, rows[places], step=0).to(_device(student))
        target = objective.read_teachers(teachers, batch)
        output = run_model(student, batch, objective.student_needs)
        for key, loss in objective.compute(output, target, batch).items():
            totals[key] = totals.get(key, 0.0) + float(loss.total)
            counts[key] = counts.get(key, 0) + int(loss.count)
    means: dict[str, float] = {"loss": 0.0}
    for term in objective.terms:
        mean = totals[term.key] / max(counts[term.key], 1)
        means[term.curve] = means.get(term.curve, 0.0) + mean
        means["loss"] += term.weight * mean
    return means
