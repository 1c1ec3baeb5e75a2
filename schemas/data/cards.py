"""The data card of a run: counts and oddities of its texts, and limits above which the data is refused."""

from __future__ import annotations

from pydantic import Field

from schemas.core.base import Frozen
from schemas.data.corpus import CorpusSummary, LeakCount


class DataLimits(Frozen):
    """Largest shares of odd rows that a run accepts; data above a limit is refused before anything is trained."""

    duplicates: float = Field(default=0.6, ge=0, le=1)
    """Training rows that repeat an earlier text."""
    contradictions: float = Field(default=0.2, ge=0, le=1)
    """Training rows whose text also occurs with another label."""
    in_train: float = Field(default=0.5, ge=0, le=1)
    """Validation rows whose text is also in train."""
    cut: float = Field(default=1, ge=0, le=1)
    """Rows truncated to `max_length`; all may be by default, since long documents commonly are."""
    corpus_leaks: float = Field(default=0.02, ge=0, le=1)
    """Rows of the general corpus that contain a validation text of the task."""
    dropped: float = Field(default=0.02, ge=0, le=1)
    """Rows of a split left out because they have no text or no label; public data sets have up to 1.8 % (SNLI)."""


class LengthCard(Frozen):
    """Lengths of sequences, in tokens."""

    mean: float
    median: int
    most_of: int
    """95th percentile."""
    longest: int


class SplitCard(Frozen):
    """One split of a task."""

    rows: int
    sequences: int
    """Each window of a context counts as a sequence."""
    tokens: int
    lengths: LengthCard
    cut: int
    """Rows truncated to `max_length`."""
    duplicates: int
    """Rows that repeat an earlier text but for case, spaces and punctuation."""
    contradictions: int
    """Rows whose text also occurs with another label."""
    in_train: int = 0
    """Rows whose text is also in train."""
    dropped: int = 0
    """Rows left out because they have no text or no label; not counted in `rows`."""
    labels: dict[str, float]
    """Rows of each class, words of each tag, or mean and range of values."""


class TaskCard(Frozen):
    """Data of a task."""

    task: str
    kind: str
    """Kind of the task."""
    splits: dict[str, SplitCard]
    remarks: tuple[str, ...] = ()
    """Sentences on whatever could have been read differently."""


class DataCard(Frozen):
    """All data of a run."""

    task: TaskCard | None = None
    corpus: CorpusSummary | None = None
    leaks: LeakCount | None = None
    """Validation texts of the task that the corpus contains."""
