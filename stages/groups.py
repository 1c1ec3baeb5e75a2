"""Sequences that are learned beside each other or not at all: the choices of a row; any other sequence is alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Groups:
    """The rows that sequences make up, one row's after the other's.

    Args:
        lengths: (sequences,) tokens of each.
        choice_of: (sequences,) the row that each is a choice of; None where every sequence is a row.
    """

    def __init__(
        self, lengths: NDArray[np.int32] | Rows, choice_of: NDArray[np.int64] | None
    ) -> None:
        own = np.asarray(lengths, dtype=np.int64)
        self.are_single = choice_of is None
        """Whether every sequence is a row."""
        self.starts = np.arange(len(own))
        if choice_of is not None:
            self.starts = np.flatnonzero(np.diff(choice_of, prepend=-1) != 0)
        self.sizes = np.diff(self.starts, append=len(own))
        """(rows,) sequences of each."""
        self.tokens, self.longest = own, own
        """(rows,) tokens of each row, and of its longest sequence."""
        if choice_of is not None and len(own):
            self.tokens = np.add.reduceat(own, self.starts)
            self.longest = np.maximum.reduceat(own, self.starts)

    def __len__(self) -> int:
        """How many rows."""
        return len(self.starts)

    def sequences(self, rows: Rows) -> Rows:
        """The sequences of some rows, in their order."""
        if self.are_single:
            return rows
        sizes = self.sizes[rows]
        before = np.cumsum(sizes) - sizes
        return np.repeat(self.starts[rows] - before, sizes) + np.arange(int(sizes.sum()))

    def cut(self, rows: Rows, budget: int) -> list[Rows]:
        """The sequences of some rows, cut between rows so that sequences times longest stays within a budget.

        Args:
            rows: sorted by length, so that little is padding.
            budget: in padded tokens; a row that is larger is alone.
        """
        pieces: list[Rows] = []
        start = number = longest = 0
        for end, (size, length) in enumerate(
            zip(self.sizes[rows].tolist(), self.longest[rows].tolist(), strict=True)
        ):
            number, longest = number + size, max(longest, length)
            if end > start and number * longest > budget:
                pieces.append(self.sequences(rows[start:end]))
                start, number, longest = end, size, length
        pieces.append(self.sequences(rows[start:]))
        return pieces
