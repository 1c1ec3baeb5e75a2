"""Columns of numbers in files instead of memory: appended row by row, then memory-mapped and read in slices.

The kernel drops mapped pages when memory is short and reads them again, so that no number of rows is too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

AT_ONCE = 1 << 18
"""Rows processed together: two megabytes of 64-bit numbers."""


def slices(number: int, rows_each: int = 1) -> Iterator[slice]:
    """Yield slices over `number` items of up to `rows_each` rows, each slice of about `AT_ONCE` rows."""
    at_once = max(1, AT_ONCE // rows_each)
    for start in range(0, number, at_once):
        yield slice(start, min(start + at_once, number))


class Column:
    """Numbers in a file that grows until it is mapped.

    Args:
        path: a file that does not exist yet.
        dtype: type of the numbers.
    """

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        path.touch(exist_ok=False)

    def add(self, numbers: NDArray[Any]) -> None:
        """Append numbers."""
        # Written rather than mapped: on a full disk, writing to a mapping kills the process.
        with self.path.open("ab") as file:
            file.write(numbers.astype(self.dtype, copy=False).tobytes())

    def mapped(self) -> NDArray[Any]:
        """Return all numbers; changes to the array change the file."""
        if not self.path.stat().st_size:
            return np.empty(0, self.dtype)
        # As a plain array: a random generator shuffles a `np.memmap` number by number in Python.
        return np.asarray(np.memmap(self.path, self.dtype, "r+"))


def zeros(path: Path, number: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return a mapped file of `number` zeros."""
    column = Column(path, dtype)
    for part in slices(number):
        column.add(np.zeros(part.stop - part.start, dtype))
    return column.mapped()


def counted(path: Path, number: int) -> NDArray[np.int64]:
    """Return a mapped file of the numbers 0, 1, …, `number` - 1."""
    column = Column(path, np.int64)
    for part in slices(number):
        column.add(np.arange(part.start, part.stop))
    return column.mapped()


def write_header(file: IO[bytes], dtype: DTypeLike, number: int) -> None:
    """Write the header of a one-dimensional `.npy` file; numpy pads it so that any `number` fits."""
    kind = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": kind, "fortran_order": False, "shape": (number,)}
    np.lib.format.write_array_header_1_0(file, header)
