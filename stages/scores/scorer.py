"""A scorer: what is right about some rows of a task, and what scores a model's answers get there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.metrics import ABOUT_ONE_CLASS, MetricName
from schemas.results.manifest import Score
from stages.data.batching.tokens import Tokens
from stages.data.tasks.load import TaskRows
from stages.data.tasks.positive_class import unclear
from stages.data.tasks.repeated_rows import rows_in_train
from stages.scores.metrics import interval, paired_difference_interval, score, why_no_correlation

Logits = Sequence[NDArray[np.float32]]
"""The answer to each sequence: (outputs,), or (tokens, outputs)."""


class Scorer(ABC):
    """Scores answers to some rows of one split."""

    def __init__(self, rows: TaskRows, split: str, tokens: Tokens, chosen: NDArray[np.int64]) -> None:
        """Take note of the rows.

        Args:
            rows: the task.
            split: which rows of it.
            tokens: their sequences.
            chosen: which rows (questions, pairs) are scored.
        """
        self.task, self.split, self.tokens, self.chosen = rows, split, tokens, chosen
        self.data = rows.split(split).select(chosen) if len(chosen) < len(rows.split(split)) else rows.split(split)

    @property
    def sequences(self) -> NDArray[np.int64]:
        """The sequences that models are asked, in their order."""
        return self.chosen

    @property
    @abstractmethod
    def labels(self) -> Any:
        """What is right, in the form of `stages.scores.metrics`."""

    @abstractmethod
    def predictions(self, logits: Logits) -> Any:
        """What a model says, in that form."""

    @property
    def counted(self) -> tuple[int, int]:
        """How many rows are scored, and of how many they were drawn."""
        return len(self.chosen), len(self.task.split(self.split))

    @abstractmethod
    def constants(self) -> Sequence[Any]:
        """Answers that are the same for every row, in the form of `labels`.

        Whatever score of the kind is asked for, one of them is the best that somebody gets who knows the labels'
        frequencies and nothing else. Empty where nobody can guess.
        """

    def guessed(self, metric: str) -> float | None:
        """The score of the best constant answer: guessing. None where nobody can guess."""
        return max((self.score(metric, each) for each in self.constants()), default=None)

    def all_guessed(self, main: MetricName) -> dict[str, float]:
        """The same by the main score and all that are always told; empty where nobody can guess."""
        constants = self.constants()
        return {
            metric: max(self.score(metric, each) for each in constants)
            for metric in dict.fromkeys((main, *self.reported()))
            if constants
        }

    def about(self, metric: str) -> str | None:
        """The class that a score is about; None for scores of all classes."""
        return self.task.positive_label if metric in ABOUT_ONE_CLASS else None

    def _positive(self, metric: str) -> dict[str, int]:
        """For the functions of `stages.scores.metrics`: the number of the class that a score is about.

        Raises:
            DataError: the score is about one class, and it is not clear about which.
        """
        if metric not in ABOUT_ONE_CLASS:
            return {}
        label = self.task.positive_label
        if label is None:
            raise DataError(unclear(metric, self.task.labels))
        return {"positive": self.task.labels.index(label)}

    @abstractmethod
    def reported(self) -> tuple[MetricName, ...]:
        """Scores that are always told, whichever is the main one."""

    def agreement(self, one: Any, other: Any) -> float:
        """How far two models say the same: the share of equal answers."""
        return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))

    def score(self, metric: str, predictions: Any) -> float:
        """One score."""
        return score(metric, *self._compared(metric, predictions), **self._positive(metric))

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
        about = self._positive(metric)
        low, high = paired_difference_interval(metric, labels, first, second, **about)
        value = score(metric, labels, first, **about) - score(metric, labels, second, **about)
        return Score(value=value, low=low, high=high, of=self.about(metric))

    def _scores_of(self, main: MetricName, predictions: Any, places: NDArray[np.int64] | None) -> dict[str, Score]:
        found: dict[str, Score] = {}
        for metric in dict.fromkeys((main, *self.reported())):
            labels, given = self._compared(metric, predictions)
            if places is not None:
                labels, given = _taken(labels, places), _taken(given, places)
            about = self._positive(metric)
            low, high = interval(metric, labels, given, **about)
            value = score(metric, labels, given, **about)
            found[metric] = Score(
                value=value,
                low=low,
                high=high,
                of=self.about(metric),
                note=why_no_correlation(metric, labels, given) or self._nothing_to_find(metric, labels),
            )
        return found

    def _nothing_to_find(self, _metric: str, _labels: Any) -> str | None:
        """Why a score is 0 whatever the model is worth: no row has what it is about. None where some have it."""
        return None

    def _compared(self, metric: str, predictions: Any) -> tuple[Any, Any]:
        """What is right and what a model says, as a metric takes them."""
        return self.labels, predictions

    @cached_property
    def in_train(self) -> NDArray[np.bool_]:
        """(rows,): whether a row's text is also in train."""
        return rows_in_train(self.task.train, self.data)


def _taken(values: Any, places: NDArray[np.int64]) -> Any:
    return values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]
