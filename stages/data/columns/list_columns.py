"""Columns of lists: words, tags, sets of labels, choices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.columns import Column, shown


@dataclass(frozen=True)
class Lists:
    """A column of lists of text."""

    flat: pa.ChunkedArray
    """Items of all rows, concatenated."""
    lengths: NDArray[np.int64]
    """Number of items in each row."""

    @classmethod
    def of(cls, rows: list[list[str]]) -> Lists:
        """Return the lists of all rows as one column."""
        flat = pa.array(chain.from_iterable(rows), pa.string())
        return cls(pa.chunked_array([flat]), np.fromiter(map(len, rows), np.int64, len(rows)))

    def rows(self) -> NDArray[np.int64]:
        """Return the row of each item, counted from 0."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def row_of(self, index: int) -> int:
        """Return the row of one item, counted from 1."""
        return int(np.searchsorted(np.cumsum(self.lengths), index, side="right")) + 1

    def by_row(self) -> Iterator[list[str]]:
        """Yield the items of each row."""
        items = iter(self.flat.to_pylist())
        return (list(islice(items, length)) for length in self.lengths.tolist())

    def with_values(self, values: pa.ChunkedArray) -> pa.Array:
        """Return an array of lists of the same lengths with other items."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)

    @property
    def array(self) -> pa.Array:
        """The column as an array of lists."""
        return self.with_values(self.flat)


def distinct_items(columns: Iterable[Lists]) -> set[str]:
    """Return all different items."""
    return {item for lists in columns for item in lists.flat.unique().to_pylist()}


def declared_names(rows: Dataset, column: str) -> tuple[str, ...]:
    """Return the names that a data set declares for the items of a list; empty if it declares none."""
    inner = getattr(rows.features.get(column), "feature", None)
    return tuple(inner.names) if isinstance(inner, datasets.ClassLabel) else ()


def lists_of_text(column: Column, *, may_be_empty: bool = False) -> Lists:
    """Return a column of lists of text; whole numbers become text, or the names that the data set declares.

    Raises:
        DataError: a row is not such a list, or has no items though `may_be_empty` is false.
    """
    names = declared_names(column.rows, column.name)
    lists: list[list[str]] = []
    for row, value in column.numbered():
        if not isinstance(value, list):
            raise column.error(row, f'is {shown(value)}, not a list; write ["one", "two"] in a .jsonl or .parquet file')
        if not value and not may_be_empty:
            raise column.error(row, "is empty; drop the row")
        lists.append([item_text(item, column.at(row), names) for item in value])
    return Lists.of(lists)


def item_text(item: Any, where: str, names: tuple[str, ...]) -> str:
    """Return an item of a list as text; a number that the data set has a name for as that name.

    Raises:
        DataError: the item is neither text nor a whole number, or is empty.
    """
    if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
        raise DataError(f"{where} holds {printable(str(item), 60)!r}, not a text; fix the row")
    if not names or not isinstance(item, int):
        return str(item)
    if not 0 <= item < len(names):
        raise DataError(f"{where} holds {item}, which marks a hidden label; use another split")
    return names[item]
