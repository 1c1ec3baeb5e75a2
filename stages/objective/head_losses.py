"""How the answers of a head are compared with a teacher's and with the data's: one class for each kind of answer.

A head's answer is one tensor for every kind: (batch, classes) for a text, (batch, sequence, classes) for its tokens, of
which start and end of a span are two classes, (batch, 1) for choices, which are sequences of their own, (batch, width)
for a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor
from typing_extensions import override

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from schemas.recipe.objective import SoftLabels
from stages.data.batching.tokens import NO_WORD, NOT_LABELLED, Batch
from stages.losses import (
    Summed,
    choice_loss,
    hard_label_loss,
    multi_label_loss,
    soft_choice_loss,
    soft_label_loss,
    soft_multi_label_loss,
    soft_span_loss,
    span_loss,
    value_loss,
    vector_loss,
)


class Answers(ABC):
    """Compares what heads answer about a batch."""

    @abstractmethod
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        """The distance to a teacher's answer; every row counts, labelled or not."""

    @abstractmethod
    def soft_count(self, batch: Batch) -> int:
        """What `soft` counts."""

    @abstractmethod
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        """The distance to the data's labels; a row without one (of augmented text) takes no part."""

    @abstractmethod
    def hard_count(self, batch: Batch) -> int:
        """What `hard` counts."""


class _Rows(Answers):
    """Answers that are one for each row."""

    @override
    def soft_count(self, batch: Batch) -> int:
        return len(batch.input_ids)

    @override
    def hard_count(self, batch: Batch) -> int:
        return int(self.labelled(batch).sum())

    def labelled(self, batch: Batch) -> Tensor:
        """(batch,): True for rows that the data labels."""
        labels = _labels(batch)
        known = ~labels.isnan() if labels.is_floating_point() else labels >= 0
        return known if known.ndim == 1 else known.all(-1)


class ClassAnswers(_Rows):
    """One class a row."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        return soft_label_loss(
            student, teacher, temperature=config.temperature, kind=config.loss, row_weights_B=row_weights
        )

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        return hard_label_loss(student, _labels(batch))


@dataclass(frozen=True)
class MixedAnswers(_Rows):
    """One class or one value a row, by the task it is of; the tasks share an output layer, each with its own outputs.

    A row is compared with its own task's outputs alone, and the others' receive no gradient from it.
    """

    groups: tuple[tuple[int, int], ...]
    """Half-open ranges of outputs, one for each task; the only output of a task is a value."""
    scales: tuple[float, ...] | None = None
    """The deviation of each output's values, which errors are divided by; None for none."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        raise AssertionError("several tasks are learnt from labels: no stage asks for their answers")

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        labels = _labels(batch)
        output, alone = labels[:, 0].nan_to_num(nan=-1.0).long(), self._values(labels)
        of_value = torch.isin(output, alone)
        classes = hard_label_loss(student[~of_value], output[~of_value], groups=self.groups)
        answered = student[of_value].gather(1, output[of_value, None]).squeeze(-1)
        values = value_loss(answered, labels[of_value, 1], scale=self._scale(output[of_value]))
        return Summed(classes.total + values.total, classes.count + values.count)

    def _scale(self, output: Tensor) -> Tensor | float:
        """(rows,): the scale of each row's output."""
        if self.scales is None:
            return 1.0
        return torch.tensor(self.scales, device=output.device)[output]

    def _values(self, labels: Tensor) -> Tensor:
        """Numbers of the outputs that are values."""
        alone = [start for start, end in self.groups if end - start == 1]
        return torch.tensor(alone, dtype=torch.long, device=labels.device)


@dataclass(frozen=True)
class ValueAnswers(_Rows):
    """One number a row."""

    scale: float = 1.0
    """The deviation of the training rows' values, which errors are divided by."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        return value_loss(student.squeeze(-1), teacher.squeeze(-1), scale=self.scale)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        known = self.labelled(batch)
        return value_loss(student.squeeze(-1)[known], _labels(batch)[known], scale=self.scale)


class LabelSetAnswers(_Rows):
    """Any number of labels a row."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        return soft_multi_label_loss(student, teacher, temperature=config.temperature, kind=config.loss)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        known = self.labelled(batch)
        return multi_label_loss(student[known], _labels(batch)[known])


class VectorAnswers(_Rows):
    """A vector a row; nobody labels it."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        return vector_loss(student, teacher, kind=config.loss)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        raise AssertionError("vectors have no labels: a recipe that asks for them is refused")


class SpanAnswers(_Rows):
    """The first and last token of a span."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        return soft_span_loss(student, teacher, batch.attention_mask, temperature=config.temperature, kind=config.loss)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        known = self.labelled(batch)
        return span_loss(student[known], _labels(batch)[known], batch.attention_mask[known])


class ChoiceAnswers(Answers):
    """The right one of a row's choices, each of which is a sequence with a score."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        return soft_choice_loss(
            self._by_row(student, batch),
            self._by_row(teacher, batch),
            self._by_row(torch.ones_like(student), batch) > 0,
            temperature=config.temperature,
            kind=config.loss,
        )

    @override
    def soft_count(self, batch: Batch) -> int:
        return len(self._sizes(batch))

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        right = self._by_row(_labels(batch)[:, None], batch)
        labels = torch.where(right.any(-1), right.argmax(-1), NOT_LABELLED)
        is_choice = self._by_row(torch.ones_like(student), batch) > 0
        return choice_loss(self._by_row(student, batch), labels, is_choice)

    @override
    def hard_count(self, batch: Batch) -> int:
        return int(self._by_row(_labels(batch)[:, None], batch).any(-1).sum())

    @staticmethod
    def _sizes(batch: Batch) -> Tensor:
        """(rows,): how many choices each has."""
        assert batch.choice_of is not None
        return torch.unique_consecutive(batch.choice_of, return_counts=True)[1]

    def _by_row(self, scores: Tensor, batch: Batch) -> Tensor:
        """(rows, most choices) of what every sequence has one of, (batch, 1); 0 beyond a row's own."""
        sizes = self._sizes(batch)
        row = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        place = torch.arange(len(row), device=sizes.device) - (sizes.cumsum(0) - sizes)[row]
        table = scores.new_zeros(len(sizes), int(sizes.max()))
        return table.index_put((row, place), scores.squeeze(-1))


class TagAnswers(Answers):
    """A class for each word, at the pieces that stand for it."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        word = _labels(batch) != NO_WORD
        return soft_label_loss(student[word], teacher[word], temperature=config.temperature, kind=config.loss)

    @override
    def soft_count(self, batch: Batch) -> int:
        return int((_labels(batch) != NO_WORD).sum())

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        known = _labels(batch) >= 0
        return hard_label_loss(student[known], _labels(batch)[known])

    @override
    def hard_count(self, batch: Batch) -> int:
        return int((_labels(batch) >= 0).sum())


class WordAnswers(Answers):
    """The words that were masked."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        masked = _words(batch) >= 0
        return soft_label_loss(student[masked], teacher[masked], temperature=config.temperature, kind=config.loss)

    @override
    def soft_count(self, batch: Batch) -> int:
        return int((_words(batch) >= 0).sum())

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        masked = _words(batch) >= 0
        return hard_label_loss(student[masked], _words(batch)[masked])

    @override
    def hard_count(self, batch: Batch) -> int:
        return self.soft_count(batch)


def answers_to(
    problem: TaskKind | None,
    groups: tuple[tuple[int, int], ...] | None = None,
    scales: tuple[float, ...] | None = None,
) -> Answers:
    """How answers of a kind are compared.

    Args:
        problem: the task's kind; None for masked words.
        groups: of outputs, where several tasks share an output layer.
        scales: the deviation of each output's values; None where none is a value.
    """
    if groups is not None:
        return MixedAnswers(groups, scales)
    match problem:
        case None:
            return WordAnswers()
        case Classification():
            return ClassAnswers()
        case MultiLabel():
            return LabelSetAnswers()
        case Regression():
            return ValueAnswers(scales[0] if scales else 1.0)
        case TokenClassification():
            return TagAnswers()
        case QuestionAnswering():
            return SpanAnswers()
        case MultipleChoice():
            return ChoiceAnswers()
        case Embedding():
            return VectorAnswers()
        case _:
            assert_never(problem)


def _labels(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels


def _words(batch: Batch) -> Tensor:
    assert batch.word_labels is not None
    return batch.word_labels
