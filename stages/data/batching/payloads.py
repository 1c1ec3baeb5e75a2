"""Labels of sequences, by the kind of task: the `Payload` of all sequences, and the `Targets` of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_WORD, NOT_LABELLED = -100, -1
"""Labels of a token that stands for no word, and of a word or row without a label."""

Chosen = NDArray[np.int64] | slice


@dataclass(frozen=True)
class Targets:
    """Targets of a batch; this class has none."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the targets with every tensor changed."""
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class Labels(Targets):
    """Labels of rows, or of tokens."""

    values: Tensor
    """(batch,) int64 classes, -1 for none; (batch,) float32 values, NaN for none; (batch, labels) float32, 1 where a
    row has the label; (batch, seq) int64 tags of words, as `WordTags`; (batch, 2) int64 first and last token of a span;
    (batch, 2) float32 outputs and values of several tasks, as `Tokens.joined` says."""


@dataclass(frozen=True)
class ChoiceLabels(Labels):
    """Labels of choices: 1 for a right choice, else 0."""

    row_of: Tensor
    """(batch,) int64, the row of the batch that each sequence is a choice of, counted from 0."""


@dataclass(frozen=True)
class MaskedWords(Targets):
    """Words that were masked."""

    words: Tensor
    """(batch, seq) int64, the id of the word that was masked; -100 elsewhere."""


@dataclass(frozen=True)
class Payload:
    """Arrays of some sequences; this class has none, as text without labels."""

    per_token: ClassVar[frozenset[str]] = frozenset()
    """Fields with an entry per token; the others have one per sequence."""
    answers_tokens: ClassVar[bool] = False
    """True where a head answers about every token."""

    def selected(self, sequences: Chosen, positions: Chosen) -> Self:
        """Return the payload of some sequences.

        Args:
            sequences: numbers of the sequences.
            positions: positions of their tokens among all tokens.
        """
        chosen = {
            field.name: np.asarray(getattr(self, field.name)[positions if field.name in self.per_token else sequences])
            for field in fields(self)
        }
        return replace(self, **chosen)

    @property
    def row_of(self) -> NDArray[np.int64] | None:
        """(sequences,) the row of the data that each sequence belongs to; None where every sequence is a row."""
        return None

    def targets(
        self, sequences: NDArray[np.int64], is_real: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> Targets:
        """Return the targets of a batch.

        Args:
            sequences: numbers of the sequences.
            is_real: (batch, seq) False for padding.
            positions: positions of the batch's real tokens among all tokens.
        """
        return Targets()


@dataclass(frozen=True)
class RowLabels(Payload):
    """A label per sequence, which is a row."""

    labels: NDArray[Any]
    """(sequences, …) as `Labels.values`."""

    def targets(
        self, sequences: NDArray[np.int64], is_real: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> Targets:
        """Return the labels."""
        return Labels(torch.from_numpy(self.labels[sequences]))


@dataclass(frozen=True)
class WordTags(Payload):
    """Tags of words, at the tokens that stand for them."""

    tags: NDArray[np.int16]
    """(tokens,) the tag; -100 for a token that stands for no word, -1 for a word without a tag."""
    word_of: NDArray[np.int32]
    """(tokens,) the word of its row that a token is a piece of; -1 for none."""
    per_token: ClassVar[frozenset[str]] = frozenset(("tags", "word_of"))
    answers_tokens: ClassVar[bool] = True

    def targets(
        self, sequences: NDArray[np.int64], is_real: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> Targets:
        """Return (batch, seq) tags."""
        tags = np.full(is_real.shape, NO_WORD, dtype=np.int64)
        tags[is_real] = self.tags[positions]
        return Labels(torch.from_numpy(tags))


@dataclass(frozen=True)
class Windows(RowLabels):
    """Windows of contexts; the label is the first and last token of the answer, twice 0 for none."""

    rows: NDArray[np.int64]
    """(sequences,) the question that each window belongs to."""
    spans: NDArray[np.int32]
    """(tokens, 2) characters of the context that a token covers; -1 outside it."""
    per_token: ClassVar[frozenset[str]] = frozenset(("spans",))
    answers_tokens: ClassVar[bool] = True

    @property
    def row_of(self) -> NDArray[np.int64]:
        """(sequences,) the question that each window belongs to."""
        return self.rows


@dataclass(frozen=True)
class Choices(RowLabels):
    """Choices of rows; the label is 1 for the right choice, else 0."""

    rows: NDArray[np.int64]
    """(sequences,) the row that each sequence is a choice of."""

    @property
    def row_of(self) -> NDArray[np.int64]:
        """(sequences,) the row that each sequence is a choice of."""
        return self.rows

    def targets(
        self, sequences: NDArray[np.int64], is_real: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> Targets:
        """Return the labels, and the rows by their order in the batch."""
        rows = self.rows[sequences]
        number = np.cumsum(np.diff(rows, prepend=rows[:1]) != 0)
        return ChoiceLabels(torch.from_numpy(self.labels[sequences]), torch.from_numpy(number))
