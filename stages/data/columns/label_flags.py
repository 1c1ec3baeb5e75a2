"""Sets of labels that say 0 or 1 for each label: in a list, in an object, or in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.list_columns import Lists
from stages.data.columns.text_columns import Task
from stages.data.readers.files import check_column, listed

FLAGS = {
    **dict.fromkeys(("0", "0.0", "0.", "false", "False", "FALSE"), 0),
    **dict.fromkeys(("1", "1.0", "1.", "true", "True", "TRUE"), 1),
}
"""What 0 and 1 look like as text."""
_WORDS = {**dict.fromkeys(("no", "n", "f"), 0), **dict.fromkeys(("yes", "y", "t"), 1)}


@dataclass(frozen=True)
class LabelSets:
    """Which labels each row of each split has."""

    lists: dict[str, Lists]
    """The names of each row's labels."""
    labels: tuple[str, ...] | None
    """All names in the order of a head's outputs; None where the training rows decide."""
    remarks: tuple[str, ...] = ()
    """A sentence for each thing that could have been read in another way."""


def sets_of_flags(
    task: Task, lists: Mapping[str, Lists], where: Mapping[str, str], remarks: tuple[str, ...]
) -> LabelSets:
    """Lists, all of one length, that hold a 0 or 1 for each label.

    Raises:
        DataError: `task.labels` has another number of names.
    """
    width = int(lists["train"].lengths[0])
    labels = task.labels or tuple(str(number) for number in range(width))
    if len(labels) != width:
        raise DataError(
            f"{where['train']}: row 1: column {task.label!r} holds a 0 or 1 for each of {width} labels, but "
            f"task.labels has {len(labels)} names, {listed(labels)}; give one for each"
        )
    flags = {
        split: np.array([FLAGS[item] for item in each.flat.to_pylist()], np.int8).reshape(-1, width)
        for split, each in lists.items()
    }
    names = "" if task.labels else ", named by their numbers from 0; name them in task.labels"
    remark = f"task.label: column {task.label!r} holds a 0 or 1 for each of {width} labels{names}"
    return _named(flags, labels, (*remarks, remark))


def sets_of_columns(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> LabelSets:
    """A column for each label.

    Raises:
        DataError: a column is missing or holds something other than 0 and 1, with its place; or `task.labels` names
            other labels.
    """
    columns = task.label_columns
    names, order = _names(columns, task.labels, "task.label")
    flags = {
        split: np.stack([_flag_column(rows, columns[at], where[split]) for at in order], axis=1)
        for split, rows in raw.items()
    }
    return _named(flags, names, ())


def sets_of_objects(
    task: Task, rows_of: Mapping[str, Sequence[object]], where: Mapping[str, str], remarks: tuple[str, ...]
) -> LabelSets:
    """Objects with a 0 or 1 for each label; where no row says 0, a label that a row leaves out is 0.

    Raises:
        DataError: a row is no such object, with its place; or `task.labels` names other labels.
    """
    flags_of: dict[str, list[dict[str, int | None]]] = {}
    for split, rows in rows_of.items():
        flags_of[split] = [
            _flags_of_object(row, f"{where[split]}: row {number}: column {task.label!r}")
            for number, row in enumerate(rows, start=1)
        ]
    seen = dict.fromkeys(name for rows in flags_of.values() for row in rows for name in row)
    names, order = _names(tuple(seen), task.labels, f"column {task.label!r}")
    keys = [tuple(seen)[at] for at in order]
    is_sparse = not any(0 in row.values() for rows in flags_of.values() for row in rows)
    flags = {}
    for split, rows in flags_of.items():
        found = [[row.get(key) for key in keys] for row in rows]
        for number, row in enumerate(found, start=1):
            if None in row and not is_sparse:
                raise DataError(
                    f"{where[split]}: row {number}: column {task.label!r} does not say whether the row has "
                    f"{printable(keys[row.index(None)], 60)!r}; write 1 or 0"
                )
        flags[split] = np.array([[flag or 0 for flag in row] for row in found], np.int8)
    return _named(flags, names, remarks)


def _flags_of_object(row: object, where: str) -> dict[str, int | None]:
    if row == []:
        return {}
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is {printable(str(row), 60)}, but other rows are objects; write every row in one form"
        )
    flags: dict[str, int | None] = {}
    for name, value in row.items():
        if isinstance(value, list):
            raise DataError(
                f"{where} holds a list in {printable(str(name), 60)!r}; name the list itself, task.label: COLUMN.{name}"
            )
        flags[str(name)] = None if value is None else flag_of(value)
        if value is not None and flags[str(name)] is None:
            raise DataError(
                f"{where} says {printable(str(value), 60)!r} of {printable(str(name), 60)!r}; write 1 where the row "
                "has the label and 0 where it has not"
            )
    return flags


def flag_of(value: object) -> int | None:
    """0 or 1 as numbers, truth values or text; None where a value is neither."""
    text = str(value).strip()
    return FLAGS.get(text, _WORDS.get(text.lower()))


def _flag_column(rows: Dataset, column: str, where: str) -> NDArray[np.int8]:
    """(rows,) zeros and ones."""
    check_column(rows.column_names, column, where)
    values = rows.with_format("arrow")[column][:]
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    meanings = [flag_of(value) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    for code, flag in enumerate(meanings):
        if flag is None:
            row = int(np.flatnonzero(codes == code)[0]) + 1
            raise _no_flag(encoded.dictionary[code].as_py(), f"{where}: row {row}: label {column!r}")
    return np.array(meanings, np.int8)[codes]


def _no_flag(value: object, where: str) -> DataError:
    text = "missing" if value is None else printable(str(value).strip(), 60) or "empty"
    hidden = " (test splits hide their labels as -1; take another split)" if text == "-1" else ""
    return DataError(
        f"{where} is {text}, not 0 or 1{hidden}; write 1 where the row has the label and 0 where it has not, or drop "
        "the row"
    )


def _names(found: tuple[str, ...], labels: tuple[str, ...] | None, where: str) -> tuple[tuple[str, ...], list[int]]:
    """Labels in the order of a head's outputs, and where in `found` each stands.

    `task.labels` may give the names that were found in another order, or others for all of them.
    """
    if labels is None:
        return found, [*range(len(found))]
    if set(labels) == set(found):
        return labels, [found.index(label) for label in labels]
    if len(labels) == len(found) and not set(labels) & set(found):
        return labels, [*range(len(found))]
    raise DataError(
        f"task.labels: {listed(labels)}, but {where} has {listed(found)}; give the same names in any order, or as many "
        "others"
    )


def _named(flags: Mapping[str, NDArray[np.int8]], labels: tuple[str, ...], remarks: tuple[str, ...]) -> LabelSets:
    names = pa.array(labels, pa.string())
    lists = {
        split: Lists(pa.chunked_array([names.take(pa.array(np.nonzero(has)[1]))]), has.sum(1, dtype=np.int64))
        for split, has in flags.items()
    }
    return LabelSets(lists, labels, remarks)
