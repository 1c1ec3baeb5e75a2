"""Class names of a classification's rows: text, whole numbers, truth values, or numbers that index `task.labels`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.columns import Parsed
from stages.data.columns.label_names import NUMBER, WHOLE, check_class_names, sorted_names
from stages.data.columns.text_columns import Task
from stages.data.readers.files import label_column

Names = Mapping[str, pa.ChunkedArray]
"""Names of the rows, or of the items of their lists, of each split."""

_WHOLE_AS_FLOAT = re.compile(r"([+-]?\d+)[.]0+")


def read_class_names(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> Parsed[pa.ChunkedArray]:
    """Return the class name of every row, and all names in the order of the head's outputs.

    Args:
        task: names the column, and may list the classes.
        raw: the splits as read, `train` first.
        where: location of each split in messages.

    Raises:
        DataError: a row has no label; or, where nobody listed the classes, the names are values, ids or several
            spellings of one name.
    """
    column = task.label_column
    names: Names = {split: _names_as_text(rows, column, where[split]) for split, rows in raw.items()}
    names, remarks = _unify_spellings(names, task.labels, f"task: column {column!r}")
    feature = raw["train"].features[column]
    if task.labels is not None:
        names, more = names_by_number(names, task.labels, f"task: column {column!r}")
        return Parsed({**names}, task.labels, remarks + more)
    if isinstance(feature, datasets.ClassLabel):
        return Parsed({**names}, tuple(feature.names), remarks)
    remarks += check_class_names(names, where, column)
    return Parsed({**names}, sorted_names(names["train"].unique().to_pylist()), remarks)


def _names_as_text(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    """Return the labels as text; whole numbers in a float column (pandas, beside a gap) as `1.0`."""
    values = rows.data[column] if column in rows.column_names else None
    if values is None or not pa.types.is_floating(values.type):
        return label_column(rows, column, where)
    numbers = np.asarray(rows.with_format("numpy")[column][:], np.float64)
    if np.isnan(numbers).any():
        row = int(np.isnan(numbers).argmax()) + 1
        raise DataError(f"{where}: row {row}: label {column!r} is missing; give the row a label or drop it")
    if not (np.isfinite(numbers) & (numbers == np.trunc(numbers))).all():
        return label_column(rows, column, where)
    return pa.chunked_array([pa.array([f"{number:.1f}" for number in numbers], pa.string())])


def _unify_spellings(names: Names, listed_labels: Sequence[str] | None, where: str) -> tuple[Names, tuple[str, ...]]:
    """Return `1.0` as `1`, and `True` as `true` where both occur."""
    distinct = _distinct(names)
    if {name.lower() for name in distinct} == {"false", "true"} and len(distinct) > 2:
        lowered = {split: pc.utf8_lower(column) for split, column in names.items()}
        return lowered, (f"{where}: {', '.join(sorted(distinct))} are read as false and true",)
    floats = {name for name in distinct if _WHOLE_AS_FLOAT.fullmatch(name)}
    are_whole = all(WHOLE.fullmatch(name) for name in distinct - floats)
    if not floats or not are_whole or floats & set(listed_labels or ()):
        return names, ()
    example = min(floats)
    remark = (
        f"{where}: labels such as {example} are read as whole numbers, {example.partition('.')[0]}; for values set "
        "task.problem to regression"
    )
    pattern = r"^([+-]?\d+)[.]0+$"
    return {split: pc.replace_substring_regex(column, pattern, r"\1") for split, column in names.items()}, (remark,)


def names_by_number(names: Names, labels: Sequence[str], where: str) -> tuple[Names, tuple[str, ...]]:
    """Replace numbers from 0, or truth values, by the names in `task.labels`; other names are returned unchanged.

    Args:
        names: of the rows, or of their words, of each split.
        labels: the names that the task lists.
        where: location of the column in messages.

    Returns:
        The names, and a remark if numbers were replaced.

    Raises:
        DataError: the numbers may count from 1, or exceed the list.
    """
    distinct = _distinct(names)
    if not distinct or distinct & set(labels):
        return names, ()
    if len(labels) == 2 and {name.lower() for name in distinct} <= {"false", "true"}:
        if {name.lower() for name in labels} == {"false", "true"}:
            return names, ()
        index_of = {name: int(name.lower() == "true") for name in distinct}
    else:
        if not all(map(_is_index, distinct)) or any(map(NUMBER.fullmatch, labels)):
            return names, ()
        index_of = {name: int(name) for name in distinct}
        _check_indices(sorted(index_of.values()), labels, where)
    low, high = (pick(index_of, key=lambda name: index_of[name]) for pick in (min, max))
    meanings = [printable(labels[index_of[name]], 60) for name in (low, high)]
    remark = (
        f"{where}: {low} is read as {meanings[0]} and {high} as {meanings[1]}, by their position in task.labels, "
        "counted from 0"
    )
    keys = pa.array(index_of, pa.string())
    values = pa.array([labels[index] for index in index_of.values()], pa.string())
    replaced = {split: pc.take(values, pc.index_in(column, value_set=keys)) for split, column in names.items()}
    return replaced, (remark,)


def _distinct(names: Names) -> set[str]:
    return {name for column in names.values() for name in column.unique().to_pylist()}


def _is_index(name: str) -> bool:
    return len(name) < 10 and name.isascii() and name.isdecimal() and str(int(name)) == name


def _check_indices(numbers: list[int], labels: Sequence[str], where: str) -> None:
    """Refuse numbers that exceed the list, or that may count from 1."""
    first, last = numbers[0], numbers[-1]
    names = f"the {len(labels)} names of task.labels are counted from 0"
    if first == 1 and last <= len(labels):
        reason = "count from 1" if last == len(labels) else "hold no 0, so they may count from 1"
        raise DataError(
            f"{where}: its numbers, {first} to {last}, {reason}, and {names}; write the names into the rows, or list "
            "the numbers in task.labels as text"
        )
    if last >= len(labels):
        raise DataError(
            f"{where}: its numbers go up to {last}, and {names}, so up to {len(labels) - 1}; list a name for every "
            "number"
        )
