"""Epochs over several sources, each with a share of the tokens.

Each source is an endless sequence of permutations of its rows, in which an epoch continues where the last one stopped.
So at the end of any epoch the rows of a source differ by at most one in how often they were seen, whatever the shares.
An epoch lasts until the source that is learnt slowest has been seen once, while the others repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mixture:
    """Number of rows and share of each source."""

    rows: tuple[int, ...]
    """Rows of each source; the sources come one after the other."""
    weights: tuple[float, ...]
    """Weight of each source's tokens."""

    def rows_in_epoch(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of each source in an epoch, the same number in every epoch.

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
        """Return the rows of an epoch, one source after the other.

        Args:
            epoch: number of the epoch, counted from 0.
            numbers: the result of `rows_in_epoch`.
            seed: decides the permutations.
        """
        first = np.cumsum(self.rows) - self.rows
        parts = []
        for source, (size, number) in enumerate(zip(self.rows, numbers.tolist(), strict=True)):
            start, end = epoch * number, (epoch + 1) * number
            for turn in range(start // size, -(-end // size)):
                # From 1: a seed sequence takes no notice of zeros at its end, and [seed, epoch] orders the steps.
                random = np.random.Generator(np.random.PCG64([seed, source, turn + 1]))
                order = random.permutation(size) + first[source]
                parts.append(order[max(0, start - turn * size) : end - turn * size])
        return np.concatenate(parts)
