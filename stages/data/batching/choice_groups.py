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

    def __init__(self, lengths: NDArray[np.int32] | Rows, choice_of: NDArray[np.int64] | None) -> None:
        own = np.asarray(lengths, dtype=np.int64)
        self.tokens, self.longest = own, own
        """(rows,) tokens of each row, and of its longest sequence."""
        # Nothing is kept of sequences that are rows: there may be very many.
        self._starts = self._sizes = np.empty(0, np.int64)
        self._are_rows = choice_of is None
        if choice_of is not None:
            self._starts = np.flatnonzero(np.diff(choice_of, prepend=-1) != 0)
            self._sizes = np.diff(self._starts, append=len(own))
            if len(own):
                self.tokens = np.add.reduceat(own, self._starts)
                self.longest = np.maximum.reduceat(own, self._starts)

    def __len__(self) -> int:
        """How many rows."""
        return len(self.tokens)

    def sizes(self, rows: Rows) -> Rows:
        """How many sequences some rows have."""
        return np.ones_like(rows) if self._are_rows else self._sizes[rows]

    def sequences(self, rows: Rows) -> Rows:
        """The sequences of some rows, in their order."""
        if self._are_rows:
            return rows
        sizes = self.sizes(rows)
        before = np.cumsum(sizes) - sizes
        return np.repeat(self._starts[rows] - before, sizes) + np.arange(int(sizes.sum()))

    def cut(self, rows: Rows, budget: int) -> list[Rows]:
        """The sequences of some rows, cut between rows so that sequences times longest stays within a budget.

        Args:
            rows: sorted by length, so that little is padding.
            budget: in padded tokens; a row that is larger is alone.
        """
        pieces: list[Rows] = []
        start = number = longest = 0
        for end, (size, length) in enumerate(zip(self.sizes(rows).tolist(), self.longest[rows].tolist(), strict=True)):
            number, longest = number + size, max(longest, length)
            if end > start and number * longest > budget:
                pieces.append(self.sequences(rows[start:end]))
                start, number, longest = end, size, length
        pieces.append(self.sequences(rows[start:]))
        return pieces
