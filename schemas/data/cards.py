"""The data card of a run: what its texts are, and what is odd about them, with limits above which it is refused."""

from __future__ import annotations

from pydantic import Field

from schemas.core.base import Frozen
from schemas.data.corpus import CorpusSummary, LeakCount


class DataLimits(Frozen):
    """Largest shares of odd rows that a run accepts; above one it is refused before anything is trained."""

    duplicates: float = Field(default=0.6, ge=0, le=1)
    """Training rows whose text was there before."""
    contradictions: float = Field(default=0.2, ge=0, le=1)
    """Training rows whose text also stands there with another label."""
    in_train: float = Field(default=0.5, ge=0, le=1)
    """Validation rows whose text is also in train."""
    cut: float = Field(default=1, ge=0, le=1)
    """Rows that `max_length` cuts; long documents are commonly cut, so that all may be unless this is set."""
    corpus_leaks: float = Field(default=0.02, ge=0, le=1)
    """Rows of the general corpus that hold a validation text of the task."""
    dropped: float = Field(default=0.02, ge=0, le=1)
    """Rows of a split without a text or a label, which are left out; public sets have up to 1.8 % of them (SNLI)."""


class LengthCard(Frozen):
    """Tokens of sequences."""

    mean: float
    median: int
    most_of: int
    """Ninety-five of a hundred are no longer."""
    longest: int


class SplitCard(Frozen):
    """One split of a task."""

    rows: int
    sequences: int
    """Windows of a context are sequences of their own."""
    tokens: int
    lengths: LengthCard
    cut: int
    """Rows that `max_length` cut."""
    duplicates: int
    """Rows whose text was there before, case, spaces and punctuation aside."""
    contradictions: int
    """Rows whose text also stands there with another label."""
    in_train: int = 0
    """Rows whose text is also in train."""
    dropped: int = 0
    """Rows that were left out because they had no text or no label; they are not among `rows`."""
    labels: dict[str, float]
    """Rows of each class, words of each tag, or mean and range of values."""


class TaskCard(Frozen):
    """A task's rows."""

    task: str
    kind: str
    """What kind of answer is asked for."""
    splits: dict[str, SplitCard]
    remarks: tuple[str, ...] = ()
    """A sentence for each thing that could have been read in another way."""


class DataCard(Frozen):
    """Everything that a run reads."""

    task: TaskCard | None = None
    corpus: CorpusSummary | None = None
    leaks: LeakCount | None = None
    """Validation texts of the task in the corpus."""
