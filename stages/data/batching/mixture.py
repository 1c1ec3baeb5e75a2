"""Which rows of several sources make up an epoch when each source has a share of its tokens.

Each source is an endless row of whole permutations of its rows, and an epoch goes on in it where the one before
stopped. So at the end of any epoch no row of a source has been seen more than once more than another, whatever the
shares; and an epoch is as long as it takes to see the source that is learned slowest once, while the others repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mixture:
    """Where each source's rows are, and its share."""

    rows: tuple[int, ...]
    """Rows of each source, which come one source after the other."""
    weights: tuple[float, ...]
    """Of each source's tokens, relative to the others'."""

    def rows_in_epoch(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of each source in an epoch, the same in every epoch.

        Args:
            lengths: tokens of each row.
        """
        rows = np.array(self.rows)
        if rows.sum() != len(lengths) or rows.min() < 1:
            raise ValueError(f"the sources have {self.rows} rows, but there are {len(lengths)}")
        tokens = np.add.reduceat(lengths, np.cumsum(rows) - rows)
        shares = np.array(self.weights) / np.sum(self.weights)
        total = (tokens / shares).max()
        return np.maximum(rows, np.rint(shares * total / (tokens / rows))).astype(np.int64)

    def epoch(self, epoch: int, numbers: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """The rows of an epoch, one source after the other.

        Args:
            epoch: which one, counted from 0.
            numbers: what `rows_in_epoch` says.
            seed: decides the permutations.
        """
        first = np.cumsum(self.rows) - self.rows
        parts = []
        for source, (size, number) in enumerate(zip(self.rows, numbers.tolist(), strict=True)):
            start, end = epoch * number, (epoch + 1) * number
            for turn in range(start // size, -(-end // size)):
                random = np.random.Generator(np.random.PCG64([seed, source, turn]))
                order = random.permutation(size) + first[source]
                parts.append(order[max(0, start - turn * size) : end - turn * size])
        return np.concatenate(parts)
