"""Baselines of every kind: the rows that linear probes are fitted on, and bag-of-words models."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from schemas.core.kinds import TaskKind
from stages.data.batching.tokens import Tokens
from stages.data.tasks.stratified import drawn_rows
from stages.evaluation.scorer import Scorer
from stages.kinds.registry import kind_of
from stages.kinds.rows import Answers


def probe_rows(train: Tokens, problem: TaskKind, max_rows: int) -> NDArray[np.int64]:
    """Return the training sequences that a probe is fitted on, drawn by class so that no class is missing.

    Args:
        train: the task's training sequences.
        problem: the task's kind.
        max_rows: number of sequences at most.
    """
    number = len(train)
    if max_rows >= number:
        return np.arange(number)
    return drawn_rows(number, max_rows, by=kind_of(problem).sequence_classes(train))


def bag_of_words(scorer: Scorer[Answers]) -> Answers:
    """Return the answers of a bag-of-words model, fitted on the training rows, to a scorer's rows."""
    from sklearn.exceptions import ConvergenceWarning  # a second of imports, not for runs whose judgements are kept

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return scorer.kind.bag_of_words(scorer.rows)
