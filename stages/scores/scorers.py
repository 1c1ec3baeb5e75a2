"""From a head's answers to scores: one class for each kind of task.

A scorer knows some rows of a task: what is right, what a guesser would say, and which rows are also in train. What it
is given is what `read_rows` reads, in the order of the rows.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from schemas.core.metrics import MetricName
from schemas.core.wording import printable
from schemas.results.manifest import Score
from stages.data.batching.spans import decode_answers
from stages.data.batching.tokens import Tokens
from stages.data.columns.tag_schemes import OUTSIDE, are_bio
from stages.data.tasks.encode import first_pieces
from stages.data.tasks.load import TaskRows
from stages.scores.metrics import score
from stages.scores.scorer import Logits, Scorer


class ClassScorer(Scorer):
    """One class a row."""

    @property
    @override
    def labels(self) -> NDArray[np.int64]:
        return np.asarray(self.data["label"][:])

    @override
    def predictions(self, logits: Logits) -> NDArray[np.int64]:
        return np.stack(logits).argmax(-1)

    @override
    def constants(self) -> list[NDArray[np.int64]]:
        classes = {int(np.bincount(self.labels).argmax())}
        if self.task.positive_label is not None:  # F1 of a class is best for who always says it
            classes.add(self.task.labels.index(self.task.positive_label))
        return [np.full(len(self.labels), each) for each in sorted(classes)]

    @override
    def reported(self) -> tuple[MetricName, ...]:
        about_one: tuple[MetricName, ...] = ("f1",) if self.task.positive_label else ()
        if len(self.task.labels) == 2:
            return ("accuracy", *(about_one or ("f1_macro",)), "matthews")
        return ("accuracy", "f1_macro", *about_one)

    @override
    def _nothing_to_find(self, metric: str, labels: Any) -> str | None:
        label = self.about(metric)
        if label is None or (np.asarray(labels) == self.task.labels.index(label)).any():
            return None
        return f"no row is {printable(label, 40)}, and no F1 of it means anything"


class LabelSetScorer(Scorer):
    """Any number of labels a row."""

    @property
    @override
    def labels(self) -> NDArray[np.int64]:
        return np.asarray(self.data["label"][:], dtype=np.int64)

    @override
    def predictions(self, logits: Logits) -> NDArray[np.int64]:
        assert isinstance(self.task.problem, MultiLabel)
        threshold = self.task.problem.threshold
        # σ(x) >= t, where x >= ln(t / (1 - t)).
        return (np.stack(logits) >= np.log(threshold / (1 - threshold))).astype(np.int64)

    @override
    def constants(self) -> list[NDArray[np.int64]]:
        labels = self.labels
        sets, counts = np.unique(labels, axis=0, return_counts=True)
        # Micro F1 is best for some number of the most frequent labels, macro F1 for all, and rows all right for the
        # most frequent set.
        having = labels.sum(0)
        order = np.argsort(-having, kind="stable")
        right = np.cumsum(having[order])
        f1 = 2 * right / (having.sum() + len(labels) * np.arange(1, len(order) + 1))
        frequent = np.zeros(labels.shape[1], np.int64)
        frequent[order[: int(f1.argmax()) + 1]] = 1
        best = (sets[counts.argmax()], frequent, np.ones_like(frequent))
        return [np.broadcast_to(each, labels.shape) for each in best]

    @override
    def agreement(self, one: Any, other: Any) -> float:
        """The share of the labels given by either that both give; that most labels are given by neither says little."""
        either = np.logical_or(one, other).sum()
        return float(np.logical_and(one, other).sum() / either) if either else 1.0

    @override
    def reported(self) -> tuple[MetricName, ...]:
        return ("f1_micro", "f1_macro", "subset_accuracy")


class ValueScorer(Scorer):
    """One number a row."""

    @property
    @override
    def labels(self) -> NDArray[np.float64]:
        return np.asarray(self.data["label"][:], dtype=np.float64)

    @override
    def predictions(self, logits: Logits) -> NDArray[np.float64]:
        return np.stack(logits)[:, 0].astype(np.float64)

    @override
    def constants(self) -> list[NDArray[np.float64]]:
        return [np.full(len(self.labels), self.labels.mean())]

    @override
    def agreement(self, one: Any, other: Any) -> float:
        return score("pearson", one, other)

    @override
    def reported(self) -> tuple[MetricName, ...]:
        return ("pearson", "spearman")


class TagScorer(Scorer):
    """A tag a word; a word that was cut off is answered by O, so that no row is left out."""

    @property
    @override
    def labels(self) -> list[list[str]]:
        names = self.task.labels
        return [[names[index] for index in row] for row in self.data["label"][:]]

    @override
    def predictions(self, logits: Logits) -> list[list[str]]:
        names = self.task.labels
        said = []
        for row, (words, answer) in enumerate(zip(self.data["words"][:], logits, strict=True)):
            tags = [OUTSIDE] * len(words)
            places = self.tokens.places(self.chosen[[row]])
            word_of = self.word_of(places)
            first = np.flatnonzero(first_pieces(word_of))
            for place, best in zip(first.tolist(), answer[first].argmax(-1).tolist(), strict=True):
                tags[word_of[place]] = names[best]
            said.append(tags)
        return said

    def word_of(self, places: NDArray[np.int64]) -> NDArray[np.int32]:
        """Which word of its row each token is a piece of, -1 for none."""
        assert self.tokens.spans is not None
        return np.asarray(self.tokens.spans[places, 0])

    @override
    def constants(self) -> list[list[list[str]]]:
        counts = Counter(tag for tags in self.labels for tag in tags)
        most = max(counts, key=lambda tag: counts[tag], default=OUTSIDE)
        words = self.data["words"][:]
        return [[[tag] * len(row) for row in words] for tag in dict.fromkeys((OUTSIDE, most))]

    @override
    def agreement(self, one: Any, other: Any) -> float:
        """The share of equal tags among the words that either takes for more than O, which most words are."""
        both = [
            (mine, theirs)
            for row, others in zip(one, other, strict=True)
            for mine, theirs in zip(row, others, strict=True)
            if (mine, theirs) != (OUTSIDE, OUTSIDE)
        ]
        return sum(mine == theirs for mine, theirs in both) / len(both) if both else 1.0

    @override
    def reported(self) -> tuple[MetricName, ...]:
        is_bio = are_bio(self.task.labels)
        return ("entity_f1", "token_accuracy") if is_bio else ("token_accuracy",)

    @override
    def _nothing_to_find(self, metric: str, labels: Any) -> str | None:
        if metric != "entity_f1" or any(tag != OUTSIDE for tags in labels for tag in tags):
            return None
        return "no row has an entity, and no F1 of them means anything"


class _ManyScorer(Scorer):
    """An answer a row, from several sequences."""

    @cached_property
    def _windows(self) -> NDArray[np.int64]:
        assert self.tokens.examples is not None
        return np.flatnonzero(np.isin(self.tokens.examples, self.chosen))

    @property
    @override
    def sequences(self) -> NDArray[np.int64]:
        return self._windows


class ChoiceScorer(_ManyScorer):
    """The number of a choice a row: the one with the highest score."""

    @property
    @override
    def labels(self) -> NDArray[np.int64]:
        return np.asarray(self.data["label"][:])

    @override
    def predictions(self, logits: Logits) -> NDArray[np.int64]:
        assert self.tokens.examples is not None
        rows = np.split(np.stack(logits)[:, 0], np.flatnonzero(np.diff(self.tokens.examples[self._windows])) + 1)
        return np.array([scores.argmax() for scores in rows])

    @override
    def constants(self) -> list[NDArray[np.int64]]:
        return [np.full(len(self.labels), np.bincount(self.labels).argmax())]

    @override
    def reported(self) -> tuple[MetricName, ...]:
        return ("accuracy",)


class SpanScorer(_ManyScorer):
    """A span a question, the best of all windows of its context."""

    @property
    @override
    def labels(self) -> list[list[str]]:
        return list(self.data["answers"][:])

    @override
    def predictions(self, logits: Logits) -> list[str]:
        problem, tokens = self.task.problem, self.tokens
        assert isinstance(problem, QuestionAnswering)
        assert tokens.examples is not None
        assert tokens.spans is not None
        return decode_answers(
            logits,
            [np.asarray(tokens.spans[tokens.places(self._windows[[place]])]) for place in range(len(logits))],
            np.searchsorted(self.chosen, tokens.examples[self._windows]),
            self.data["text_pair"],
            max_tokens=problem.max_answer_tokens,
            no_answer=self.no_answer,
        )

    @cached_property
    def no_answer(self) -> bool:
        """Whether "no answer" may be given."""
        assert isinstance(self.task.problem, QuestionAnswering)
        wanted = self.task.problem.no_answer
        if wanted != "auto":
            return wanted == "allowed"
        return any(not answers for answers in self.task.train["answers"][:])

    @override
    def constants(self) -> list[list[str]]:
        return [[""] * len(self.data)]

    @override
    def reported(self) -> tuple[MetricName, ...]:
        return ("squad_f1", "exact_match")


class VectorScorer(Scorer):
    """A vector a row, compared with the teacher's, or with the likeness that the data gives pairs."""

    teacher: NDArray[np.float32] | None = None
    """The teacher's vectors."""

    @property
    def has_likeness(self) -> bool:
        """Whether the rows are pairs with a likeness."""
        return "label" in self.data.column_names

    @property
    @override
    def sequences(self) -> NDArray[np.int64]:
        if not self.has_likeness:
            return self.chosen
        return np.stack([2 * self.chosen, 2 * self.chosen + 1], axis=1).ravel()

    @property
    @override
    def labels(self) -> Any:
        assert self.teacher is not None
        return self.teacher

    @override
    def predictions(self, logits: Logits) -> NDArray[np.float32]:
        return np.stack(logits)

    @override
    def constants(self) -> tuple[()]:
        return ()

    @override
    def agreement(self, one: Any, other: Any) -> float:
        name = "cosine" if one.shape == other.shape else "similarity_spearman"
        return score(name, other, one)

    @override
    def reported(self) -> tuple[MetricName, ...]:
        return ("similarity_spearman", *(("spearman",) if self.has_likeness else ()))

    @override
    def _compared(self, metric: str, predictions: Any) -> tuple[Any, Any]:
        if metric not in ("pearson", "spearman", "pearson_spearman"):
            return self.labels, predictions
        one, other = predictions[::2], predictions[1::2]
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return np.asarray(self.data["label"][:]), (one * other).sum(1) / np.maximum(lengths, 1e-12)

    @override
    def scores(self, main: MetricName, predictions: Any) -> dict[str, Score]:
        return {} if self.teacher is None else super().scores(main, predictions)

    @override
    def unseen_scores(self, main: MetricName, predictions: Any) -> dict[str, Score]:
        return {}  # nobody has labelled these rows, so that none can be known from train


def scorer_of(rows: TaskRows, split: str, tokens: Tokens, chosen: NDArray[np.int64]) -> Scorer:
    """The scorer for a task's kind; arguments as `Scorer`'s."""
    kinds: dict[type, type[Scorer]] = {
        Classification: ClassScorer,
        MultiLabel: LabelSetScorer,
        Regression: ValueScorer,
        TokenClassification: TagScorer,
        QuestionAnswering: SpanScorer,
        MultipleChoice: ChoiceScorer,
        Embedding: VectorScorer,
    }
    return kinds[type(rows.problem)](rows, split, tokens, chosen)
