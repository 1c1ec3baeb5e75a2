"""Scores of answers to some rows of a task, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray
from torch import nn

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.core.metrics import ABOUT_ONE_CLASS, MetricName
from schemas.results.score import Score
from stages.data.batching.tokens import Tokens
from stages.data.tasks.repeated_rows import rows_in_train
from stages.kinds.base import AnyKind, Kind, Logits
from stages.kinds.registry import kind_of
from stages.kinds.rows import Answers, ScoredRows, TaskRows
from stages.models.read import read_rows
from stages.scores.metrics import interval, paired_difference_interval, resampled, score, why_no_correlation
from stages.scores.positive_class import unclear


@dataclass(frozen=True)
class Scorer(Generic[Answers]):
    """Scores answers to some rows of one split."""

    kind: Kind[Any, Answers, Any]
    rows: ScoredRows[Answers]

    @property
    def can_score(self) -> bool:
        """False where answers are scored against a teacher's, and these are not known."""
        return not self.kind.needs_teacher or self.rows.teacher is not None

    def with_teacher(self, answers: Answers | None) -> Scorer[Answers]:
        """Return the scorer that compares with a teacher's answers, where the kind does so."""
        if not self.kind.needs_teacher:
            return self
        return replace(self, rows=replace(self.rows, teacher=answers))

    @property
    def sequences(self) -> NDArray[np.int64]:
        """The sequences that models read, in their order."""
        return self.kind.sequences(self.rows)

    @property
    def counted(self) -> tuple[int, int]:
        """Rows that are scored, and rows of the split."""
        return len(self.rows.chosen), len(self.rows.task.split(self.rows.split))

    @property
    def example(self) -> dict[str, str]:
        """The first row as a reader would type it: `text`, and `text_pair` for pairs."""
        row = self.rows.data[0]
        if "words" in row:
            return {"text": " ".join(row["words"])}
        names = ("text", "text_pair") if self.kind.is_pair(self.rows.data) else ("text",)
        return {name: row[name] for name in names if name in row}

    def answers(self, logits: Logits) -> Answers:
        """Return a model's answers, from its head's answers to `sequences`."""
        return self.kind.answers(self.rows, logits)

    def answers_of(self, model: nn.Module, outputs: slice = slice(None)) -> Answers:
        """Return the answers of a model with a head.

        Args:
            model: the model.
            outputs: the task's outputs of the head, where several tasks share it.
        """
        logits = read_rows(model, self.rows.tokens, self.sequences).logits
        assert logits is not None
        return self.answers([row[..., outputs] for row in logits])

    def guessed(self, metric: MetricName) -> float | None:
        """Return the score of the best constant answer; None where guessing is impossible."""
        return max((self.score(metric, answers) for answers in self.kind.constants(self.rows)), default=None)

    def all_guessed(self, main: MetricName) -> dict[str, float]:
        """Return the best constant answer's scores, the same as those of `scores`; {} where guessing is impossible."""
        constants = self.kind.constants(self.rows)
        return {
            metric: max(self.score(metric, answers) for answers in constants)
            for metric in self._reported(main)
            if constants
        }

    def agreement(self, first: Answers, second: Answers) -> float:
        """Return the agreement of two models."""
        return self.kind.agreement(first, second)

    def guessed_agreement(self, answers: Answers) -> float | None:
        """Return the best constant answer's agreement with a model; None where guessing is impossible."""
        constants = self.kind.constants(self.rows)
        return max((self.agreement(constant, answers) for constant in constants), default=None)

    def about(self, metric: str) -> str | None:
        """Return the class that a score is about; None for scores of all classes."""
        return self.rows.task.positive_label if metric in ABOUT_ONE_CLASS else None

    def score(self, metric: MetricName, answers: Answers) -> float:
        """Return one score."""
        labels, compared = self.kind.compared(self.rows, metric, answers)
        return score(metric, labels, compared, **self._positive(metric))

    def scores(self, main: MetricName, answers: Answers) -> dict[str, Score]:
        """Return the main score and those that are always reported, with bootstrap intervals.

        Empty where they cannot be computed, see `can_score`.
        """
        return self._scores_of(main, answers, None) if self.can_score else {}

    def unseen_scores(self, main: MetricName, answers: Answers) -> dict[str, Score]:
        """Return the scores on rows whose text is not in train; empty where that holds for all rows or for none.

        Empty for kinds without labels as well: rows that nobody has labelled cannot be known from train.
        """
        positions = np.flatnonzero(~self.in_train)
        if self.kind.needs_teacher or not 0 < len(positions) < len(self.in_train):
            return {}
        return self._scores_of(main, answers, positions)

    def difference(self, metric: MetricName, first: Answers, second: Answers) -> Score:
        """Return the first model's score minus the second's, with the interval of draws that take the same rows."""
        labels, minuend = self.kind.compared(self.rows, metric, first)
        _, subtrahend = self.kind.compared(self.rows, metric, second)
        about = self._positive(metric)
        low, high = paired_difference_interval(metric, labels, minuend, subtrahend, **about)
        value = score(metric, labels, minuend, **about) - score(metric, labels, subtrahend, **about)
        return Score(value=value, low=low, high=high, of=self.about(metric))

    def draws(self, metric: MetricName, answers: Answers) -> NDArray[np.float64]:
        """Return (resamples,) scores of resampled rows; equal draws of rows for all answers that this scorer scores."""
        labels, compared = self.kind.compared(self.rows, metric, answers)
        return resampled(metric, labels, compared, **self._positive(metric))

    @cached_property
    def rows_digest(self) -> str:
        """Digest of the rows with their labels, and of what scores are about."""
        task = self.rows.task
        about = {
            "labels": list(task.labels),
            "positive": task.positive_label,
            "kind": task.problem.model_dump(mode="json"),
        }
        return digest_of(about | {"rows": self.rows.data.to_list()})

    @cached_property
    def in_train(self) -> NDArray[np.bool_]:
        """(rows,) True where a row's text is also in train."""
        return rows_in_train(self.rows.task.train, self.rows.data)

    def _reported(self, main: MetricName) -> list[MetricName]:
        return list(dict.fromkeys((main, *self.kind.reported(self.rows))))

    def _positive(self, metric: str) -> dict[str, int]:
        """Return the number of the class that a score is about, for the functions of `stages.scores.metrics`.

        Raises:
            DataError: the score is about one class, and it is unclear which.
        """
        if metric not in ABOUT_ONE_CLASS:
            return {}
        task = self.rows.task
        if task.positive_label is None:
            raise DataError(unclear(metric, task.labels))
        return {"positive": task.labels.index(task.positive_label)}

    def _scores_of(self, main: MetricName, answers: Answers, positions: NDArray[np.int64] | None) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        for metric in self._reported(main):
            labels, compared = (
                values if positions is None else _selected(values, positions)
                for values in self.kind.compared(self.rows, metric, answers)
            )
            about = self._positive(metric)
            low, high = interval(metric, labels, compared, **about)
            scores[metric] = Score(
                value=score(metric, labels, compared, **about),
                low=low,
                high=high,
                of=self.about(metric),
                note=why_no_correlation(metric, labels, compared)
                or self.kind.why_meaningless(self.rows, metric, labels),
            )
        return scores


AnyScorer = Scorer[Any]


def _selected(values: NDArray[Any] | list[Any], positions: NDArray[np.int64]) -> NDArray[Any] | list[Any]:
    return values[positions] if isinstance(values, np.ndarray) else [values[position] for position in positions]


def scorer_of(rows: TaskRows, split: str, tokens: Tokens, chosen: NDArray[np.int64]) -> AnyScorer:
    """Return the scorer of some rows.

    Args:
        rows: the task.
        split: which rows of it.
        tokens: their sequences.
        chosen: numbers of the rows (questions, pairs) that are scored.
    """
    kind: AnyKind = kind_of(rows.problem)
    return Scorer(kind, ScoredRows(rows, split, tokens, chosen))
