"""A scorer: what is right about some rows of a task, and what scores a model's answers get there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.metrics import MetricName
from schemas.results import Score
from stages.metrics import interval, paired_difference_interval, score
from stages.seen_rows import rows_in_train
from stages.sources import TaskRows
from stages.tokens import Tokens

Logits = Sequence[NDArray[np.float32]]
"""The answer to each sequence: (outputs,), or (tokens, outputs)."""


class Scorer(ABC):
    """Scores answers to some rows of one split."""

    def __init__(
        self, rows: TaskRows, split: str, tokens: Tokens, chosen: NDArray[np.int64]
    ) -> None:
        """Take note of the rows.

        Args:
            rows: the task.
            split: which rows of it.
            tokens: their sequences.
            chosen: which rows (questions, pairs) are scored.
        """
        self.task, self.split, self.tokens, self.chosen = rows, split, tokens, chosen
        self.data = (
            rows.split(split).select(chosen)
            if len(chosen) < len(rows.split(split))
            else rows.split(split)
        )

    @property
    def sequences(self) -> NDArray[np.int64]:
        """The sequences that models are asked, in their order."""
        return self.chosen

    @property
    @abstractmethod
    def labels(self) -> Any:
        """What is right, in the form of `stages.metrics`."""

    @abstractmethod
    def predictions(self, logits: Logits) -> Any:
        """What a model says, in that form."""

    @abstractmethod
    def guess(self) -> Any:
        """What somebody would say who knows the labels' frequencies and nothing else."""

    @abstractmethod
    def reported(self) -> tuple[MetricName, ...]:
        """Scores that are always told, whichever is the main one."""

    def agreement(self, one: Any, other: Any) -> float:
        """How far two models say the same: the share of equal answers."""
        return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))

    def score(self, metric: str, predictions: Any) -> float:
        """One score."""
        return score(metric, *self._compared(metric, predictions))

    def scores(self, main: MetricName, predictions: Any) -> dict[str, Score]:
        """The main score and the kind's others, each with its bootstrap interval.

        Args:
            main: the task's metric.
            predictions: in the form of `labels`.
        """
        return self._scores_of(main, predictions, None)

    def unseen_scores(self, main: MetricName, predictions: Any) -> dict[str, Score]:
        """The same on rows whose text is not in train; empty where all are such rows, or none is."""
        places = np.flatnonzero(~self.in_train)
        if not 0 < len(places) < len(self.in_train):
            return {}
        return self._scores_of(main, predictions, places)

    def difference(self, metric: MetricName, one: Any, other: Any) -> Score:
        """One's score minus the other's, with the interval of draws that take the same rows of both."""
        labels, first = self._compared(metric, one)
        _, second = self._compared(metric, other)
        low, high = paired_difference_interval(metric, labels, first, second)
        value = score(metric, labels, first) - score(metric, labels, second)
        return Score(value=value, low=low, high=high)

    def _scores_of(
        self, main: MetricName, predictions: Any, places: NDArray[np.int64] | None
    ) -> dict[str, Score]:
        found: dict[str, Score] = {}
        for metric in dict.fromkeys((main, *self.reported())):
            labels, given = self._compared(metric, predictions)
            if places is not None:
                labels, given = _taken(labels, places), _taken(given, places)
            low, high = interval(metric, labels, given)
            found[metric] = Score(value=score(metric, labels, given), low=low, high=high)
        return found

    def _compared(self, metric: str, predictions: Any) -> tuple[Any, Any]:
        """What is right and what a model says, as a metric takes them."""
        return self.labels, predictions

    @cached_property
    def in_train(self) -> NDArray[np.bool_]:
        """(rows,): whether a row's text is also in train."""
        return rows_in_train(self.task.train, self.data)


def _taken(values: Any, places: NDArray[np.int64]) -> Any:
    return values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]
