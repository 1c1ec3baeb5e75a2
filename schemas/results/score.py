"""A score with its interval, and the scores of resampled rows from which intervals follow."""

from __future__ import annotations

from schemas.core.base import Frozen, Sha256


class Score(Frozen):
    """A score with its bootstrap interval."""

    value: float
    """The score."""
    low: float
    """Lower end of the 95 % interval over resampled rows."""
    high: float
    """Upper end."""
    of: str | None = None
    """The class of an F1; null for scores of all classes."""
    note: str | None = None
    """Reason why it is meaningless, such as constant answers; null if it is not."""


class Draws(Frozen):
    """A model's scores on rows drawn with replacement.

    Two models with equal `rows` have equal draws of rows, so that their difference in each draw gives the paired
    interval; neither answers nor labels need to be kept for it.
    """

    rows: Sha256
    """Digest of the rows with their labels, and of everything else that a score depends on beside the answers."""
    count: int
    """Number of rows."""
    task: tuple[float, ...] = ()
    """The task's metric by the model's own head in each draw; empty without a trained head."""
    probe: tuple[float, ...] = ()
    """The linear probe's score in each draw."""
