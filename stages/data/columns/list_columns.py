"""Columns whose rows are lists: words, tags, sets of labels, answers; checked row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.readers.files import check_column


@dataclass(frozen=True)
class Lists:
    """A column of lists of text."""

    flat: pa.ChunkedArray
    """All items of all rows, one after the other."""
    lengths: NDArray[np.int64]
    """Items of each row."""

    def rows(self) -> NDArray[np.int64]:
        """The row of each item, counted from 0."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def row_of(self, place: int) -> int:
        """The row of one item, counted from 1."""
        return int(np.searchsorted(np.cumsum(self.lengths), place, side="right")) + 1

    def by_row(self) -> Iterator[list[str]]:
        """The items of each row."""
        items = iter(self.flat.to_pylist())
        return (list(islice(items, length)) for length in self.lengths.tolist())

    @property
    def array(self) -> pa.Array:
        """The lists as a column."""
        return self.with_values(self.flat)

    def with_values(self, values: pa.ChunkedArray) -> pa.Array:
        """Lists of the same lengths with other items."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)


def list_column(rows: Dataset, column: str, where: str) -> Iterator[tuple[int, Any]]:
    """The values of a column with their rows, counted from 1.

    Raises:
        DataError: there is no such column.
    """
    check_column(rows.column_names, column, where)
    return enumerate(rows[column], start=1)


def texts_of_lists(
    rows: Dataset, column: str, where: str, *, separator: str | None, may_be_empty: bool = False
) -> Lists:
    """A column whose rows are lists of text; whole numbers are taken as they are written.

    Args:
        rows: as they were read.
        column: its name.
        where: how messages name the rows.
        separator: splits a row that is one text; None where that is refused.
        may_be_empty: whether a row may have no item.

    Raises:
        DataError: a row is no such list, with its place and what to do.
    """
    feature = getattr(rows.features.get(column), "feature", None)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    flat: list[str] = []
    lengths: list[int] = []
    for row, value in list_column(rows, column, where):
        if isinstance(value, str) and separator is not None:
            value = [part.strip() for part in value.split(separator) if part.strip()]
        items = _items(value, f"{where}: row {row}: column {column!r}", names)
        if not items and not may_be_empty:
            raise DataError(f"{where}: row {row}: column {column!r} is empty; drop the row")
        flat += items
        lengths.append(len(items))
    return Lists(pa.chunked_array([pa.array(flat, pa.string())]), np.array(lengths, np.int64))


def _items(value: Any, where: str, names: list[str] | None) -> list[str]:
    if not isinstance(value, list):
        found = "missing" if value is None else f"{printable(str(value), 60)!r}"
        raise DataError(f'{where} is {found}, not a list; write ["one", "two"] in a .jsonl or .parquet file')
    items = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
            raise DataError(f"{where} holds {printable(str(item), 60)!r}, not a text; mend the row")
        if names is not None and isinstance(item, int):
            if not 0 <= item < len(names):
                raise DataError(f"{where} holds {item}, which is hidden; take another split")
            item = names[item]
        items.append(str(item))
    return items


def answer_columns(rows: Dataset, column: str, contexts: pa.ChunkedArray, where: str) -> dict[str, pa.Array]:
    """`answers` and `starts` of every row: texts of the context and where in it they begin, in characters.

    Raises:
        DataError: an answer does not stand where it is said to.
    """
    texts: list[list[str]] = []
    starts: list[list[int]] = []
    for (row, value), context in zip(list_column(rows, column, where), contexts.to_pylist(), strict=True):
        answers, places = _answers(value, f"{where}: row {row}: column {column!r}")
        for answer, start in zip(answers, places, strict=True):
            if start < 0 or context[start : start + len(answer)] != answer:
                found = context[max(start, 0) : max(start, 0) + len(answer)]
                raise DataError(
                    f"{where}: row {row}: column {column!r}: the answer {printable(answer, 60)!r} does not stand at "
                    f"character {start} of the context, {printable(found, 60)!r} does; count answer_start in "
                    "characters from 0, or drop the row"
                )
        texts.append(answers)
        starts.append(places)
    return {"answers": pa.array(texts, pa.list_(pa.string())), "starts": pa.array(starts, pa.list_(pa.int64()))}


def _answers(value: Any, where: str) -> tuple[list[str], list[int]]:
    example = '{"text": ["…"], "answer_start": [0]}, or empty lists where there is no answer'
    if isinstance(value, list):  # one object for each answer, as in SQuAD's own files
        value = {
            "text": [each.get("text") if isinstance(each, dict) else None for each in value],
            "answer_start": [each.get("answer_start") if isinstance(each, dict) else None for each in value],
        }
    if not isinstance(value, dict) or not {"text", "answer_start"} <= value.keys():
        found = "missing" if value is None else printable(str(value), 60)
        raise DataError(f"{where} is {found}; write {example}")
    texts, starts = value["text"], value["answer_start"]
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) and text for text in texts)
        or not all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    ):
        raise DataError(
            f"{where}: text and answer_start must be lists of the same length, of texts and whole numbers; write "
            f"{example}"
        )
    return texts, starts
