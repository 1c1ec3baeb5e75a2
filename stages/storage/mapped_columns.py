"""Numbers of every row in files instead of memory: written as the rows come, then mapped and gone through in pieces.

What is mapped belongs to the file: the kernel drops it where memory is short and reads it again, so that no number of
rows is too large, only slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

AT_ONCE = 1 << 18
"""Rows that are looked at together: two megabytes in an array of 64-bit numbers."""


def slices(number: int, rows_each: int = 1) -> Iterator[slice]:
    """All of `number` things that have up to `rows_each` rows each, so many of them that they are `AT_ONCE` rows."""
    at_once = max(1, AT_ONCE // rows_each)
    for start in range(0, number, at_once):
        yield slice(start, min(start + at_once, number))


class Column:
    """Numbers in a file, to which more are added until it is mapped.

    Args:
        path: the file, which is not there yet.
        dtype: what the numbers are.
    """

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        path.touch(exist_ok=False)

    def add(self, numbers: NDArray[Any]) -> None:
        """Write numbers behind those that are there."""
        # Written rather than mapped before it is there: of a full disk a mapping says so by killing the process.
        with self.path.open("ab") as file:
            file.write(numbers.astype(self.dtype, copy=False).tobytes())

    def mapped(self) -> NDArray[Any]:
        """All of them; what is changed in the array is changed in the file."""
        if not self.path.stat().st_size:
            return np.empty(0, self.dtype)
        # As a plain array, which a generator shuffles at once; a `np.memmap` it shuffles number by number in Python.
        return np.asarray(np.memmap(self.path, self.dtype, "r+"))


def zeros(path: Path, number: int, dtype: DTypeLike) -> NDArray[Any]:
    """So many zeros in a file, mapped."""
    column = Column(path, dtype)
    for some in slices(number):
        column.add(np.zeros(some.stop - some.start, dtype))
    return column.mapped()


def counted(path: Path, number: int) -> NDArray[np.int64]:
    """The numbers from 0 on in a file, mapped."""
    column = Column(path, np.int64)
    for some in slices(number):
        column.add(np.arange(some.start, some.stop))
    return column.mapped()


def write_header(file: IO[bytes], dtype: DTypeLike, number: int) -> None:
    """What stands before so many numbers in a file that `np.load` reads; numpy leaves room in it for any amount."""
    kind = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": kind, "fortran_order": False, "shape": (number,)}
    np.lib.format.write_array_header_1_0(file, header)
