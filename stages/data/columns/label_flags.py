"""Sets of labels as a 0 or 1 for each label: in a list, in an object, or in one column per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.columns import Column, Columns, Parsed
from stages.data.columns.list_columns import Lists
from stages.data.columns.text_columns import Task
from stages.data.readers.files import check_column, listed

FLAGS = {
    **dict.fromkeys(("0", "0.0", "0.", "false", "False", "FALSE"), 0),
    **dict.fromkeys(("1", "1.0", "1.", "true", "True", "TRUE"), 1),
}
"""Spellings of 0 and 1."""
_WORDS = {**dict.fromkeys(("no", "n", "f"), 0), **dict.fromkeys(("yes", "y", "t"), 1)}
_REMEDY = "write 1 if the row has the label and 0 if it does not"
Flags = NDArray[np.int8]
"""(rows, labels)."""


def flag_columns(rows: Dataset) -> list[str]:
    """Return the columns that hold both 0 and 1 and nothing else, as numbers, truth values or text."""
    names = []
    for name in rows.column_names:
        values = rows.data.column(name)
        if not pa.types.is_nested(values.type):
            distinct = {str(value) for value in values.unique().to_pylist()[:3]}
            if len(distinct) == 2 and {FLAGS.get(value) for value in distinct} == {0, 1}:
                names.append(name)
    return names


def sets_from_columns(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> Parsed[Lists]:
    """Read one column of flags per label.

    Raises:
        DataError: a column is missing or holds anything but 0 and 1, or `task.labels` does not match the columns.
    """
    labels, order = _match_labels(task.label_columns, task.labels, "task.label")
    names = [task.label_columns[index] for index in order]
    flags = {
        split: np.stack([_flag_column(Column(rows, name, where[split], noun="label")) for name in names], axis=1)
        for split, rows in raw.items()
    }
    return _as_sets(flags, labels)


def sets_from_flags(
    lists: Mapping[str, Lists], columns: Columns, labels: tuple[str, ...] | None, remarks: tuple[str, ...]
) -> Parsed[Lists]:
    """Read lists of one length that hold a flag for each label.

    Raises:
        DataError: `task.labels` has another number of names.
    """
    width, train = int(lists["train"].lengths[0]), columns["train"]
    names = labels or tuple(map(str, range(width)))
    if len(names) != width:
        raise train.error(
            1,
            f"holds a 0 or 1 for each of {width} labels, but task.labels has {len(names)} names, {listed(names)}; give "
            "one for each",
        )
    flags = {
        split: np.array([FLAGS[item] for item in column.flat.to_pylist()], np.int8).reshape(-1, width)
        for split, column in lists.items()
    }
    numbered = "" if labels else ", named by their numbers from 0; name them in task.labels"
    remark = f"task.label: column {train.name!r} holds a 0 or 1 for each of {width} labels{numbered}"
    return _as_sets(flags, names, (*remarks, remark))


def sets_from_objects(
    rows_of: Mapping[str, Sequence[object]], columns: Columns, labels: tuple[str, ...] | None, remarks: tuple[str, ...]
) -> Parsed[Lists]:
    """Read objects with a flag for each label; if no row holds a 0, labels that a row omits are 0.

    Raises:
        DataError: a row is not such an object, or `task.labels` does not match the keys.
    """
    flags_of = {
        split: [_flags_of_object(row, columns[split].at(number)) for number, row in enumerate(rows, start=1)]
        for split, rows in rows_of.items()
    }
    keys = tuple(dict.fromkeys(name for rows in flags_of.values() for row in rows for name in row))
    names, order = _match_labels(keys, labels, f"column {columns['train'].name!r}")
    keys = tuple(keys[index] for index in order)
    is_sparse = not any(0 in row.values() for rows in flags_of.values() for row in rows)
    flags = {}
    for split, rows in flags_of.items():
        for number, row in enumerate(rows, start=1):
            omitted = None if is_sparse else next((key for key in keys if row.get(key) is None), None)
            if omitted is not None:
                raise columns[split].error(number, f"does not give {printable(omitted, 60)!r}; write 1 or 0")
        flags[split] = np.array([[row.get(key) or 0 for key in keys] for row in rows], np.int8)
    return _as_sets(flags, names, remarks)


def _flags_of_object(row: object, where: str) -> dict[str, int | None]:
    if row == []:
        return {}
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is {printable(str(row), 60)}, but other rows are objects; write every row in one form"
        )
    flags: dict[str, int | None] = {}
    for key, value in row.items():
        name = printable(str(key), 60)
        if isinstance(value, list):
            raise DataError(f"{where} holds a list in {name!r}; name the list itself, task.label: COLUMN.{key}")
        flags[str(key)] = flag = None if value is None else _flag(value)
        if value is not None and flag is None:
            raise DataError(f"{where} has {printable(str(value), 60)!r} for {name!r}; {_REMEDY}")
    return flags


def _flag(value: object) -> int | None:
    """Return 0 or 1 for numbers, truth values and their spellings; None for anything else."""
    text = str(value).strip()
    return FLAGS.get(text, _WORDS.get(text.lower()))


def _flag_column(column: Column) -> Flags:
    """Return (rows,) flags of a column."""
    check_column(column.rows.column_names, column.name, column.where)
    values = column.rows.with_format("arrow")[column.name][:]
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = values.dictionary_encode(null_encoding="encode")
    flags = [_flag(value) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    if None in flags:
        code = flags.index(None)
        value = encoded.dictionary[code].as_py()
        text = "missing" if value is None else printable(str(value).strip(), 60) or "empty"
        hidden = " (test splits hide their labels as -1; use another split)" if text == "-1" else ""
        row = int(np.flatnonzero(codes == code)[0]) + 1
        raise column.error(row, f"is {text}, not 0 or 1{hidden}; {_REMEDY}, or drop the row")
    return np.array(flags, np.int8)[codes]


def _match_labels(
    names: tuple[str, ...], labels: tuple[str, ...] | None, where: str
) -> tuple[tuple[str, ...], list[int]]:
    """Return the labels in the order of the head's outputs, and the index in `names` of each.

    `task.labels` may list the same names in another order, or as many other names.
    """
    if labels is None:
        return names, [*range(len(names))]
    if set(labels) == set(names):
        return labels, [names.index(label) for label in labels]
    if len(labels) == len(names) and not set(labels) & set(names):
        return labels, [*range(len(names))]
    raise DataError(
        f"task.labels: {listed(labels)}, but {where} has {listed(names)}; give the same names in any order, or as many "
        "other names"
    )


def _as_sets(flags: Mapping[str, Flags], labels: tuple[str, ...], remarks: tuple[str, ...] = ()) -> Parsed[Lists]:
    names = pa.array(labels, pa.string())
    lists = {
        split: Lists(pa.chunked_array([names.take(pa.array(np.nonzero(has)[1]))]), has.sum(1, dtype=np.int64))
        for split, has in flags.items()
    }
    return Parsed(lists, labels, remarks)
