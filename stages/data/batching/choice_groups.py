"""Groups of sequences that must be in one batch: the choices of a row. Any other sequence is a group of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Groups:
    """Rows as groups of consecutive sequences.

    Args:
        lengths: (sequences,) tokens of each.
        choice_of: (sequences,) the row that each is a choice of; None where every sequence is a row.
    """

    def __init__(self, lengths: NDArray[np.int32] | Rows, choice_of: NDArray[np.int64] | None) -> None:
        of_sequences = np.asarray(lengths, dtype=np.int64)
        self.tokens, self.longest = of_sequences, of_sequences
        """(rows,) tokens of each row, and tokens of its longest sequence."""
        # Nothing is stored for sequences that are rows: there may be very many.
        self._starts = self._sizes = np.empty(0, np.int64)
        self._are_rows = choice_of is None
        if choice_of is not None:
            self._starts = np.flatnonzero(np.diff(choice_of, prepend=-1) != 0)
            self._sizes = np.diff(self._starts, append=len(of_sequences))
            if len(of_sequences):
                self.tokens = np.add.reduceat(of_sequences, self._starts)
                self.longest = np.maximum.reduceat(of_sequences, self._starts)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.tokens)

    def sizes(self, rows: Rows) -> Rows:
        """Return the number of sequences of some rows."""
        return np.ones_like(rows) if self._are_rows else self._sizes[rows]

    def sequences(self, rows: Rows) -> Rows:
        """Return the sequences of some rows, in the order of the rows."""
        if self._are_rows:
            return rows
        sizes = self.sizes(rows)
        before = np.cumsum(sizes) - sizes
        return np.repeat(self._starts[rows] - before, sizes) + np.arange(int(sizes.sum()))

    def cut(self, rows: Rows, budget: int) -> list[Rows]:
        """Return the sequences of some rows in batches whose padded size stays within a budget.

        Args:
            rows: sorted by length, so that there is little padding.
            budget: padded tokens of a batch; a larger row is a batch of its own.
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
