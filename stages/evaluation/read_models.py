"""Losses of models on held-out text. In fp32, whatever a stage was trained in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stages.data.batching.choice_groups import Groups
from stages.data.batching.tokens import Tokens
from stages.data.tasks.stratified import drawn_rows
from stages.models.read import reading_batches
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import run_model


@torch.no_grad()
def held_out_losses(
    student: nn.Module, teachers: Sequence[nn.Module], objective: ObjectiveTerms, tokens: Tokens, *, max_rows: int
) -> dict[str, float]:
    """Return each term's mean on held-out rows, by name (layers summed), and their weighted sum as `loss`."""
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    student.eval(), objective.eval()
    for teacher in teachers:
        teacher.eval()
    device = next(student.parameters()).device
    groups = Groups(tokens.lengths, tokens.choice_of)
    rows = groups.sequences(drawn_rows(len(groups), max_rows))
    for positions, batch in reading_batches(tokens, rows, together=True):
        batch = objective.prepare(batch, rows[positions], step=0).to(device)
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
