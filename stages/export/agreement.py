"""Comparison of an exported file's answers with those of the checkpoint in torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.core.metrics import MetricName
from schemas.results.score import Score
from stages.evaluation.scorer import AnyScorer
from stages.kinds.base import Logits


@dataclass(frozen=True)
class Agreement:
    """Answers of an exported file, compared with the checkpoint's."""

    rows: int
    """Texts that both answered."""
    largest: float
    """Largest absolute difference of two outputs, before softmax."""
    mean: float
    """Mean absolute difference."""
    same: float | None = None
    """The kind's agreement of the answers, for classes the share of equal ones; None without a head."""
    score: Score | None = None
    """The file's score with its interval; None without labels."""
    minus_checkpoint: Score | None = None
    """The file's score minus the checkpoint's, with the interval over the same resampled rows."""


def differences(reference: Logits, logits: Logits) -> tuple[float, float]:
    """Return the largest and the mean absolute difference of two models' outputs.

    Args:
        reference: (outputs,), or (tokens, outputs), for each sequence.
        logits: the other model's.
    """
    pairs = [np.abs(one - other) for one, other in zip(reference, logits, strict=True)]
    return max(float(pair.max()) for pair in pairs), float(np.mean([pair.mean() for pair in pairs]))


def agreement(reference: Logits, logits: Logits, scorer: AnyScorer | None, metric: MetricName | None) -> Agreement:
    """Compare two models' outputs for the same sequences.

    Args:
        reference: the checkpoint's, for each sequence.
        logits: the exported file's.
        scorer: scores the rows that the sequences are made of; None without a head.
        metric: the task's main score.
    """
    largest, mean = differences(reference, logits)
    if scorer is None or metric is None:
        return Agreement(len(reference), largest, mean)
    expected, answers = scorer.answers(reference), scorer.answers(logits)
    compared = scorer.with_teacher(expected)
    return Agreement(
        rows=scorer.counted[0],
        largest=largest,
        mean=mean,
        same=scorer.agreement(answers, expected),
        score=compared.scores(metric, answers).get(metric),
        minus_checkpoint=compared.difference(metric, answers, expected) if scorer.can_score else None,
    )
