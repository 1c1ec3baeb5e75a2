"""One labelled task of a stage, and the rows that are held out of its training to select weights by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.training import Selection
from schemas.data.tasks import AnyTask
from stages.data.batching.tokens import Tokens
from stages.data.tasks.repeated_rows import rows_in_train
from stages.data.tasks.stratified import drawn_rows
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows

FEWEST_HELD_OUT = 50
"""Fewer rows cannot tell which weights are better."""

_LARGEST_SINGLE_TEXT_CLASS = 1000
"""Rows of a class up to which all of them may share one text."""


@dataclass(frozen=True)
class TaskPart:
    """One labelled task of a stage's data."""

    task: AnyTask
    rows: TaskRows
    train: Tokens
    """All training sequences, held-out ones included."""
    validation: Tokens
    outputs: slice
    """Outputs of the head that belong to this task."""
    held_out: NDArray[np.int64] | None = None
    """Training rows kept out of training to be scored; None if validation rows are scored."""

    def scorer(self) -> AnyScorer:
        """Return the scorer of answers to all validation rows."""
        return scorer_of(self.rows, "validation", self.validation, np.arange(len(self.rows.validation)))

    def learnt(self) -> Tokens:
        """Return the training sequences without held-out rows and without rows that share a held-out row's text.

        Raises:
            DataError: nothing is left.
        """
        if self.held_out is None:
            return self.train
        return self.train.selected(np.flatnonzero(np.isin(self.train.row_of, self.rows_learnt())))

    def rows_learnt(self) -> NDArray[np.int64]:
        """Return the numbers of the training rows that `learnt` covers.

        Raises:
            DataError: nothing is left.
        """
        if self.held_out is None:
            return np.arange(len(self.rows.train))
        is_held = rows_in_train(self.rows.train.select(self.held_out), self.rows.train)
        left = np.flatnonzero(~is_held)
        if not len(left):
            raise DataError(
                "training.selection.rows: every training row shares its text with a held-out row; set it to validation"
            )
        return left


def held_out_rows(rows: TaskRows, task: AnyTask, selection: Selection) -> NDArray[np.int64] | None:
    """Draw the training rows to hold out, stratified by class with the task's seed; None to score validation rows.

    A class's only row, or only text, stays in training. All fine-tunings of a task, and all its stages, hold out the
    same rows.

    Raises:
        DataError: too few rows would be left to train on.
    """
    if selection.rows == "validation":
        return None
    number = len(rows.train)
    wanted = max(FEWEST_HELD_OUT, round(selection.held_out_share * number))
    if 2 * wanted > number:
        raise DataError(
            f"training.selection.rows: held_out needs {wanted} training rows to score, and the task has only {number}; "
            "set it to validation, or add training rows"
        )
    by_class = kind_of(rows.problem).classes(rows.train)
    held = drawn_rows(number, min(wanted, selection.max_rows), seed=task.seed, by=by_class, keep_one=True)
    return held if by_class is None else held[~np.isin(by_class[held], _lost_classes(rows.train, held, by_class))]


def _lost_classes(train: Dataset, held: NDArray[np.int64], by_class: NDArray[np.int64]) -> NDArray[np.int64]:
    """Classes with nothing left to learn: each of their rows shares its text with a held-out row."""
    classes, sizes = np.unique(by_class, return_counts=True)
    # A larger class has more than one text; comparing its rows would only take time.
    small = np.flatnonzero(np.isin(by_class, classes[sizes < _LARGEST_SINGLE_TEXT_CLASS]))
    if not len(small):
        return small
    is_lost = rows_in_train(train.select(held), train.select(small))
    return np.setdiff1d(by_class[small], by_class[small][~is_lost])
