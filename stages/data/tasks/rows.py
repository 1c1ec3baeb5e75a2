"""A task's rows, whatever their kind: text and label columns checked and put into one form.

| kind                   | columns of the form                                                         |
|------------------------|-----------------------------------------------------------------------------|
| classification         | `text`, `text_pair` for pairs, `label` int64, an index into the label names  |
| multi_label            | the same, `label` a list of a 1 or 0 for each label name                     |
| regression             | the same, `label` float64                                                    |
| token_classification   | `words` list of text, `label` list of int64, an index for each word          |
| question_answering     | `text` question, `text_pair` context, `answers` and `starts`, both lists     |
| multiple_choice        | `text`, `text_pair` where there is a question, `choices` list of text,       |
|                        | `label` int64, the number of the right one                                   |
| embedding              | `text`; validation may have `text_pair` and `label` float64                  |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from schemas.core.wording import printable
from schemas.data.cards import DataLimits
from stages.data.columns.choice_rows import choice_rows
from stages.data.columns.label_names import check_names, check_set_names, in_one_form, named_by_number, near_name
from stages.data.columns.label_sets import label_sets
from stages.data.columns.list_columns import answer_columns
from stages.data.columns.tag_rows import tagged_words
from stages.data.columns.text_columns import Task, opened, task_texts
from stages.data.columns.values import value_columns
from stages.data.readers.files import first_row, label_column, listed, text_column
from stages.data.tasks.unlabelled import complete_rows, in_file_numbers

VALUE, SPAN, CHOICE, VECTOR = ("value",), ("start", "end"), ("choice",), ("vector",)
"""Names of a head's outputs where they are no classes."""


@dataclass(frozen=True)
class CheckedRows:
    """The rows of every split in the form of the task's kind."""

    splits: dict[str, Dataset]
    labels: tuple[str, ...]
    """Names of a head's outputs."""
    remarks: tuple[str, ...] = ()
    """A sentence for each thing that could have been read in another way."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of each split that were left out, because they had no text or no label."""


def checked_rows(
    task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str], *, droppable: float = DataLimits().dropped
) -> CheckedRows:
    """Every split's rows in the form of the task's kind, and the names of a head's outputs.

    Args:
        task: says the kind and the columns.
        raw: the splits as they were read, `train` first.
        where: how messages name each split.
        droppable: largest share of a split's rows that may be left out, because they have no text or no label.

    Raises:
        DataError: a row is not right; with split, row, column and what to do.
    """
    raw = {split: opened(task, rows) for split, rows in raw.items()}
    complete = complete_rows(task, raw, where, limit=droppable)
    try:
        found = _read(task, {split: kept.rows for split, kept in complete.kept.items()}, where)
    except DataError as error:
        raise DataError(in_file_numbers(str(error), complete, where)) from None
    dropped = {split: kept.dropped for split, kept in complete.kept.items()}
    return replace(found, remarks=complete.remarks + found.remarks, dropped=dropped)


def _read(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    """The rows of a task, every one of which is to be right."""
    match task.problem:
        case Classification():
            return _classified(task, raw, where)
        case MultiLabel():
            return _multi_labelled(task, raw, where)
        case Regression():
            return _valued(task, raw, where)
        case TokenClassification():
            return _tagged(task, raw, where)
        case QuestionAnswering():
            splits = {split: _spans(task, rows, where[split]) for split, rows in raw.items()}
            return CheckedRows(splits, SPAN)
        case MultipleChoice():
            splits, remarks = choice_rows(task, task.problem, raw, where)
            return CheckedRows(splits, CHOICE, remarks)
        case Embedding():
            return _embedded(task, raw, where)
        case _:
            assert_never(task.problem)


def _as_dataset(columns: Mapping[str, Any]) -> Dataset:
    return Dataset(pa.table(dict(columns)))


def _classified(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    column = task.label_column
    names = {split: _class_names(rows, column, where[split]) for split, rows in raw.items()}
    names, remarks = in_one_form(names, task.labels, f"task: column {column!r}")
    declared = isinstance(raw["train"].features[column], datasets.ClassLabel)
    if task.labels is not None:
        names, said = named_by_number(names, task.labels, f"task: column {column!r}")
        remarks += said
    elif not declared:
        remarks += check_names(names, where, column)
    labels = task.labels or _sorted_labels(raw["train"], column, names["train"])
    parts = {}
    for split, rows in raw.items():
        columns = task_texts(task, rows, where[split])
        codes = _codes(names[split], labels)
        if row := first_row(pc.is_null(codes)):
            found = names[split][row - 1].as_py()
            raise _unknown_label(task, where[split], row, found, labels)
        parts[split] = _as_dataset({**columns, "label": codes})
    return CheckedRows(parts, labels, remarks)


def _class_names(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    """The labels as text; whole numbers that pandas made floats beside a gap are taken as it writes them."""
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


def _codes(names: pa.ChunkedArray, labels: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.index_in(names, value_set=pa.array(labels, pa.string())).cast(pa.int64())


def _unknown_label(task: Task, where: str, row: int, found: str, labels: tuple[str, ...]) -> DataError:
    origin = "given as task.labels" if task.labels else "the labels of the training rows"
    return DataError(
        f"{where}: row {row}: label {printable(found, 60)!r} is not one of {listed(labels)} ({origin})"
        f"{near_name(found, labels)}; mend the row, or list every label in task.labels"
    )


def _sorted_labels(rows: Dataset, column: str, names: pa.ChunkedArray) -> tuple[str, ...]:
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    return sorted_names(names.unique().to_pylist())


def sorted_names(distinct: list[str]) -> tuple[str, ...]:
    """Label names in the order that their classes get: whole numbers by size, others by letters."""
    if all(re.fullmatch(r"-?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _multi_labelled(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    assert isinstance(task.problem, MultiLabel)
    found = label_sets(task, task.problem, raw, where)
    given, remarks = found.lists, found.remarks
    if task.labels is None and found.labels is None:
        remarks += check_set_names(given, where, task.label_column)
    labels = task.labels or found.labels or sorted_names(given["train"].flat.unique().to_pylist())
    if len(labels) < 2:
        raise DataError(
            f"{where['train']}: column {task.label!r} has {len(labels)} label in all; a multi_label task needs "
            "two or more"
        )
    parts = {}
    for split, rows in raw.items():
        lists = given[split]
        codes = _codes(lists.flat, labels)
        if place := first_row(pc.is_null(codes)):
            row, found = lists.row_of(place - 1), lists.flat[place - 1].as_py()
            raise _unknown_label(task, where[split], row, found, labels)
        has = np.zeros((len(rows), len(labels)), np.int8)
        has[lists.rows(), codes.to_numpy()] = 1
        columns = task_texts(task, rows, where[split])
        parts[split] = _as_dataset({**columns, "label": pa.array(list(has), pa.list_(pa.int8()))})
    return CheckedRows(parts, labels, remarks)


def _valued(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    values, remarks = value_columns(raw, task.label_column, where)
    splits = {
        split: _as_dataset({**task_texts(task, rows, where[split]), "label": values[split]})
        for split, rows in raw.items()
    }
    return CheckedRows(splits, VALUE, remarks)


def _tagged(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    found = tagged_words(task, raw, where)
    parts = {}
    for split in raw:
        words, tags = found.words[split], found.tags[split]
        codes = _codes(tags.flat, found.labels)
        if place := first_row(pc.is_null(codes)):
            name = tags.flat[place - 1].as_py()
            raise _unknown_label(task, where[split], tags.row_of(place - 1), name, found.labels)
        rows = _as_dataset({"words": words.array, "label": tags.with_values(codes)})
        # Published files often end with a sentence of no words.
        filled = np.flatnonzero(words.lengths)
        parts[split] = rows if len(filled) == len(rows) else rows.select(filled)
        if not len(filled):
            raise DataError(f"{where[split]}: column {task.text!r} is empty in every row")
    return CheckedRows(parts, found.labels, found.remarks)


def _spans(task: Task, rows: Dataset, where: str) -> Dataset:
    if task.text_pair is None:
        raise DataError("task.text_pair: a question_answering task needs the column of the context, such as context")
    columns = task_texts(task, rows, where)
    return _as_dataset(columns | answer_columns(rows, task.label_column, columns["text_pair"], where))


def _embedded(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    """Texts alone to learn from; of other splits also pairs, where they say how alike their texts are."""
    pair = task.text_pair
    scored = {
        split: rows
        for split, rows in raw.items()
        if split != "train" and {pair, task.label_column} <= set(rows.column_names)
    }
    likeness, remarks = value_columns(scored, task.label_column, where)
    parts = {}
    for split, rows in raw.items():
        first = text_column(rows, task.text, where[split])
        second = None
        if pair is not None and pair in rows.column_names and (split == "train" or split in scored):
            second = text_column(rows, pair, where[split])
        if split in scored:
            columns = {"text": first, "text_pair": second, "label": likeness[split]}
            parts[split] = _as_dataset(columns)
        else:
            # Both texts of a pair are texts to learn from.
            chunks = [*first.chunks, *(second.chunks if second is not None else [])]
            parts[split] = _as_dataset({"text": pa.chunked_array(chunks)})
    return CheckedRows(parts, VECTOR, remarks)
