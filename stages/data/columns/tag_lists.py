"""Lists of words and of tags, which files without types hold as text: printed, or with blanks between."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.list_columns import Lists, texts_of_lists
from stages.data.columns.written_lists import NotAList, is_written_list, written_list
from stages.data.readers.files import is_text, text_column

_BLANKS = re.compile(r"[ \t\n]+")
Columns = dict[str, dict[str, Lists]]
"""The lists of each split, by column."""


def lists_of_columns(
    raw: Mapping[str, Dataset], columns: tuple[str, str], where: Mapping[str, str]
) -> tuple[Columns, tuple[str, ...]]:
    """The lists of two columns, of words and of tags, and what is to be said of how they were read.

    Args:
        raw: the splits.
        columns: names of the two.
        where: how messages name each split.

    Raises:
        DataError: a row is no list, or cannot be read as the others are.
    """
    are_text = [name in rows.column_names and is_text(rows.features[name]) for rows in raw.values() for name in columns]
    if not all(are_text):
        lists = {
            name: {
                split: texts_of_lists(rows, name, where[split], separator=None, may_be_empty=True)
                for split, rows in raw.items()
            }
            for name in columns
        }
        return lists, ()
    texts = {
        name: {
            split: text_column(rows, name, where[split], blank_allowed=True).to_pylist() for split, rows in raw.items()
        }
        for name in columns
    }
    # A sentence may begin and end with brackets of its own; tags have none.
    printed = all(is_written_list(text) for own in texts[columns[1]].values() for text in own)
    lists = {
        name: {
            split: _read(own, f"{where[split]}: row {{row}}: column {name!r}", printed=printed)
            for split, own in texts[name].items()
        }
        for name in columns
    }
    how = "as printed lists" if printed else "with blanks between words and between tags"
    return lists, (f"{where['train']}: the text of columns {columns[0]!r} and {columns[1]!r} is read {how}",)


def _read(texts: list[str], where: str, *, printed: bool) -> Lists:
    flat: list[str] = []
    lengths: list[int] = []
    for row, text in enumerate(texts, start=1):
        items = _printed(text, where, row) if printed else [part for part in _BLANKS.split(text) if part]
        flat += items
        lengths.append(len(items))
    return Lists(pa.chunked_array([pa.array(flat, pa.string())]), np.array(lengths, np.int64))


def _printed(text: str, where: str, row: int) -> list[str]:
    try:
        items = written_list(text)
    except NotAList as error:
        raise DataError(
            f"{where.format(row=row)}: {printable(text, 60)!r} {error}; write lists as JSON does, or give .jsonl"
        ) from None
    if isinstance(items, dict) or not all(items):
        raise DataError(f"{where.format(row=row)}: {printable(text, 60)!r} is no list of texts; mend the row")
    return [item for item in items if item is not None]
