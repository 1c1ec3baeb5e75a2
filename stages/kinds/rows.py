"""A task's rows in the form of its kind, and the rows of a split that models are scored on.

| kind                   | columns of the form                                                         |
|------------------------|-----------------------------------------------------------------------------|
| classification         | `text`, `text_pair` for pairs, `label` int64, an index into the label names  |
| multi_label            | the same, `label` a list of a 1 or 0 for each label name                     |
| regression             | the same, `label` float64                                                    |
| token_classification   | `words` list of text, `label` list of int64, an index for each word          |
| question_answering     | `text` question, `text_pair` context, `answers` and `starts`, both lists     |
| multiple_choice        | `text`, `text_pair` where there is a question, `choices` list of text,       |
|                        | `label` int64, the number of the right choice                                |
| embedding              | `text`; validation may have `text_pair` and `label` float64                  |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.kinds import Classification, TaskKind

if TYPE_CHECKING:
    import numpy as np

    from stages.data.batching.tokens import Tokens

Answers = TypeVar("Answers", bound=NDArray[Any] | list[Any])
"""Answers to some rows, in the form of a kind: an array or a list with an entry per row."""


@dataclass(frozen=True)
class CheckedRows:
    """Checked rows of every split, in the form of the task's kind."""

    splits: dict[str, Dataset]
    labels: tuple[str, ...]
    """Names of a head's outputs."""
    remarks: tuple[str, ...] = ()
    """A sentence for each thing that could have been read in another way."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of each split that were left out because they had no text or no label."""


@dataclass(frozen=True)
class TaskRows:
    """A labelled task in the form of its kind."""

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...]
    """Names of a head's outputs: classes, tags or labels; a name of the kind's own where it has none of these."""
    digest: str
    problem: TaskKind = field(default_factory=Classification)
    more: Mapping[str, Dataset] = field(default_factory=dict)
    """Further validation rows, by name."""
    remarks: tuple[str, ...] = ()
    """A sentence for each thing that could have been read in another way."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows left out of each split because they had no text or no label; keys are the names that `split` takes."""
    positive_label: str | None = None
    """The class that F1 is about; None where that is unclear or the task has no classes."""

    def split(self, name: str) -> Dataset:
        """Return the rows of `train`, of `validation`, or of further validation rows."""
        main = {"train": self.train, "validation": self.validation}
        return main[name] if name in main else self.more[name]


@dataclass(frozen=True)
class ScoredRows(Generic[Answers]):
    """Rows of a split that models are scored on."""

    task: TaskRows
    split: str
    tokens: Tokens
    """Sequences of the whole split."""
    chosen: NDArray[np.int64]
    """(rows,) numbers of the rows (questions, pairs) within the split, ascending."""
    teacher: Answers | None = None
    """The teacher's answers to these rows, for kinds that are judged by them; None for other kinds."""

    @cached_property
    def data(self) -> Dataset:
        """The chosen rows in the form of the kind."""
        rows = self.task.split(self.split)
        return rows.select(self.chosen) if len(self.chosen) < len(rows) else rows


def as_dataset(columns: Mapping[str, Any]) -> Dataset:
    """Return a data set of arrow columns."""
    return Dataset(pa.table(dict(columns)))
