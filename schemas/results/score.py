"""A score with its interval."""

from __future__ import annotations

from schemas.core.base import Frozen


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
