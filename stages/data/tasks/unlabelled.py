"""Rows without a text or without a label, which published data sets have: left out and counted.

PAWS-X has rows without a translation, QQP empty questions, and SNLI rows on which the annotators did not agree: 1.6 %
of its validation rows, the largest share known. `limits.dropped` limits the share that may be left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.label_names import missing_label_names, name_counts
from stages.data.columns.text_columns import Task
from stages.data.readers.files import is_text
from stages.kinds.registry import kind_of

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Kept:
    """The rows of a split that have a text and a label."""

    rows: Dataset
    numbers: NDArray[np.int64]
    """Numbers of the rows in the file, counted from 1."""
    dropped: int
    """Rows that were left out."""
    advice: tuple[int, str] | None = None
    """Number of the first incomplete row and what to say about it; None unless there are too many to leave out."""


@dataclass(frozen=True)
class Complete:
    """The rows of all splits that have a text and a label."""

    kept: dict[str, Kept]
    remarks: tuple[str, ...]


def complete_rows(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str], *, limit: float) -> Complete:
    """Leave out rows without a text or a label, in splits where their share is at most `limit`.

    Args:
        task: the kind and the columns.
        raw: the splits as they were read.
        where: the name of each split in messages.
        limit: largest share; nothing is left out of a split above it, so that its reader refuses the first such row.

    Raises:
        DataError: a larger share of rows has labels such as `-` or `nan`, which stand for no label.
    """
    empty = {split: _empty(task, rows, is_train=split == "train") for split, rows in raw.items()}
    nothing = _names_for_nothing(task, raw, empty)
    kept: dict[str, Kept] = {}
    remarks: list[str] = []
    for split, rows in raw.items():
        without = _named(rows, task, nothing)
        mask = empty[split] | without
        number, total = int(mask.sum()), len(rows)
        numbers = np.arange(1, total + 1)
        if not number or number > limit * total or number == total:
            first = int(mask.argmax()) + 1
            if without.any() and first == int(without.argmax()) + 1:
                raise DataError(_too_many(task, rows, first, number, total, limit, where[split]))
            advice = (first, _share(number, total, limit)) if number else None
            kept[split] = Kept(rows, numbers, 0, advice)
            continue
        left = np.flatnonzero(~mask)
        kept[split] = Kept(rows.select(left), numbers[left], number)
        remarks.append(
            f"{where[split]}: {number:,} of {total:,} rows have no text or no label{_such_as(rows, task, without)} and "
            f"are left out, the first is row {int(mask.argmax()) + 1:,}; set limits.dropped to 0 to refuse them"
        )
    return Complete(kept, tuple(remarks))


def in_file_numbers(message: str, complete: Complete, where: Mapping[str, str]) -> str:
    """Return a reader's message about a row with the row's number in its file and, if too many are empty, their share.

    Readers count the rows that are left. Each of their messages about a row begins with the name of the split in
    `where` and the row.
    """
    for split, kept in complete.kept.items():
        match = re.match(rf"{re.escape(where[split])}: row (\d+)(?=:)", message)
        if match is None or int(match[1]) > len(kept.numbers):
            continue
        row = int(kept.numbers[int(match[1]) - 1])
        renumbered = f"{where[split]}: row {row}{message[match.end() :]}"
        return renumbered + kept.advice[1] if kept.advice is not None and kept.advice[0] == row else renumbered
    return message


def _empty(task: Task, rows: Dataset, *, is_train: bool) -> Mask:
    """Return (rows,) True where a row lacks a text or a label."""
    kind, is_empty = kind_of(task.problem), np.zeros(len(rows), bool)
    for column in {task.text, task.text_pair}:
        if column is not None and column in rows.column_names:
            is_empty |= _without_text(rows, column, lists=not kind.holds_words)
    if not kind.has_labels(task, is_train=is_train):
        return is_empty
    labels = [column for column in task.label_columns if column in rows.column_names]
    if labels:  # one of several columns may be empty
        is_empty |= np.logical_and.reduce([_without_label(rows, column, task) for column in labels])
    return is_empty


def _without_text(rows: Dataset, column: str, *, lists: bool) -> Mask:
    values = _values(rows, column)
    missing = pc.is_null(values)
    if is_text(rows.features[column]):
        missing = pc.or_(missing, _blank(values))
    elif lists and _is_list(values.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.list_value_length(values), 0), False))
    return _as_mask(missing)


def _without_label(rows: Dataset, column: str, task: Task) -> Mask:
    values, feature = _values(rows, column), rows.features[column]
    missing = pc.is_null(values, nan_is_null=pa.types.is_floating(values.type))
    if isinstance(feature, datasets.ClassLabel):
        missing = pc.or_(missing, pc.fill_null(pc.less(values, 0), True))
    elif is_text(feature):
        missing = pc.or_(missing, kind_of(task.problem).is_no_label(values))
    return _as_mask(missing)


def _names_for_nothing(task: Task, raw: Mapping[str, Dataset], empty: Mapping[str, Mask]) -> frozenset[str]:
    """Return the class names that stand for no label."""
    if not kind_of(task.problem).has_class_names:
        return frozenset()
    counts: Counter[str] = Counter()
    for split, rows in raw.items():
        if (names := _names(rows, task)) is not None:
            counts.update(name_counts(names.filter(pa.array(~empty[split]))))
    return missing_label_names(counts, task.labels)


def _names(rows: Dataset, task: Task) -> pa.ChunkedArray | None:
    """Return the labels as text; None where they are declared, or neither text nor whole numbers."""
    column = task.label_column
    if column not in rows.column_names or isinstance(rows.features[column], datasets.ClassLabel):
        return None
    values = _values(rows, column)
    if pa.types.is_floating(values.type):  # whole numbers beside a gap
        finite = pc.if_else(pc.is_finite(values), values, None)
        if not pc.all(pc.equal(finite, pc.trunc(finite))).as_py():
            return None
        values = finite.cast(pa.int64())
    if not is_text(rows.features[column]) and not pa.types.is_integer(values.type):
        return None
    return values.cast(pa.string())


def _named(rows: Dataset, task: Task, nothing: frozenset[str]) -> Mask:
    names = _names(rows, task) if nothing else None
    if names is None:
        return np.zeros(len(rows), bool)
    return _as_mask(pc.is_in(names, value_set=pa.array(sorted(nothing), pa.string())))


def _such_as(rows: Dataset, task: Task, without: Mask) -> str:
    if not without.any():
        return ""
    names = _names(rows, task)
    assert names is not None
    shown = [printable(name, 20) for name in names.filter(pa.array(without)).unique().to_pylist()]
    ending = "s" if len(shown) == 1 else ""
    return f" ({' and '.join(map(repr, shown[:3]))} mean{ending} none unless task.labels lists it)"


def _too_many(task: Task, rows: Dataset, row: int, number: int, total: int, limit: float, where: str) -> str:
    names = _names(rows, task)
    assert names is not None
    return (
        f"{where}: row {row}: label {task.label_column!r} is {printable(names[row - 1].as_py(), 60)!r}, which commonly "
        "says that a row has none; drop the row, or list every label in task.labels to make it a class"
        f"{_share(number, total, limit)}"
    )


def _share(number: int, total: int, limit: float) -> str:
    return (
        f" ({number:,} of {total:,} rows have no text or no label, {100 * number / total:.2g} %; limits.dropped leaves "
        f"out up to {100 * limit:g} %)"
    )


def _values(rows: Dataset, column: str) -> pa.ChunkedArray:
    values = rows.with_format("arrow")[column][:]
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _blank(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), False)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _as_mask(values: pa.ChunkedArray) -> Mask:
    return np.asarray(values.to_numpy(), dtype=bool)
