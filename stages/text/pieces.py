"""Pieces of bounded size from long sequences of rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def pieces_of(sizes: NDArray[np.integer], most: int, most_rows: int = sys.maxsize) -> Iterator[slice]:
    """Yield slices of consecutive rows that together are no larger than `most`; a larger row is a piece by itself.

    Args:
        sizes: (rows,) size of each, such as its bytes.
        most: size of a piece.
        most_rows: rows of a piece.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, min(end, start + most_rows))
        start = min(end, start + most_rows)
