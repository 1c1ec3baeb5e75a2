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

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

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
from stages.data.columns.choice_rows import read_choices
from stages.data.columns.class_names import read_class_names
from stages.data.columns.label_names import spelling_hint
from stages.data.columns.label_sets import read_label_sets
from stages.data.columns.tag_rows import read_tagged_words
from stages.data.columns.text_columns import Task, flatten_objects, read_answers, task_texts
from stages.data.columns.values import read_values
from stages.data.readers.files import first_row, listed, text_column
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
    raw = {split: flatten_objects(task, rows) for split, rows in raw.items()}
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
            answers = read_answers(task, raw, where)
            return CheckedRows({split: _as_dataset(columns) for split, columns in answers.splits.items()}, SPAN)
        case MultipleChoice():
            choices = read_choices(task, task.problem, raw, where)
            return CheckedRows(choices.splits, CHOICE, choices.remarks)
        case Embedding():
            return _embedded(task, raw, where)
        case _:
            assert_never(task.problem)


def _as_dataset(columns: Mapping[str, Any]) -> Dataset:
    return Dataset(pa.table(dict(columns)))


def _classified(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    names = read_class_names(task, raw, where)
    parts = {}
    for split, rows in raw.items():
        columns = task_texts(task, rows, where[split])
        codes = _codes(names.splits[split], names.labels)
        if row := first_row(pc.is_null(codes)):
            found = names.splits[split][row - 1].as_py()
            raise _unknown_label(task, where[split], row, found, names.labels)
        parts[split] = _as_dataset({**columns, "label": codes})
    return CheckedRows(parts, names.labels, names.remarks)


def _codes(names: pa.ChunkedArray, labels: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.index_in(names, value_set=pa.array(labels, pa.string())).cast(pa.int64())


def _unknown_label(task: Task, where: str, row: int, found: str, labels: tuple[str, ...]) -> DataError:
    origin = "given as task.labels" if task.labels else "the labels of the training rows"
    return DataError(
        f"{where}: row {row}: label {printable(found, 60)!r} is not one of {listed(labels)} ({origin})"
        f"{spelling_hint(found, labels)}; mend the row, or list every label in task.labels"
    )


def _multi_labelled(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    assert isinstance(task.problem, MultiLabel)
    sets = read_label_sets(task, task.problem, raw, where)
    parts = {}
    for split, rows in raw.items():
        lists = sets.splits[split]
        codes = _codes(lists.flat, sets.labels)
        if place := first_row(pc.is_null(codes)):
            row, found = lists.row_of(place - 1), lists.flat[place - 1].as_py()
            raise _unknown_label(task, where[split], row, found, sets.labels)
        has = np.zeros((len(rows), len(sets.labels)), np.int8)
        has[lists.rows(), codes.to_numpy()] = 1
        columns = task_texts(task, rows, where[split])
        parts[split] = _as_dataset({**columns, "label": pa.array(list(has), pa.list_(pa.int8()))})
    return CheckedRows(parts, sets.labels, sets.remarks)


def _valued(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    values = read_values(task, raw, where)
    splits = {
        split: _as_dataset({**task_texts(task, rows, where[split]), "label": values.splits[split]})
        for split, rows in raw.items()
    }
    return CheckedRows(splits, VALUE, values.remarks)


def _tagged(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    tagged = read_tagged_words(task, raw, where)
    parts = {}
    for split, found in tagged.splits.items():
        words, tags = found.words, found.tags
        codes = _codes(tags.flat, tagged.labels)
        if place := first_row(pc.is_null(codes)):
            name = tags.flat[place - 1].as_py()
            raise _unknown_label(task, where[split], tags.row_of(place - 1), name, tagged.labels)
        rows = _as_dataset({"words": words.array, "label": tags.with_values(codes)})
        # Published files often end with a sentence of no words.
        filled = np.flatnonzero(words.lengths)
        parts[split] = rows if len(filled) == len(rows) else rows.select(filled)
        if not len(filled):
            raise DataError(f"{where[split]}: column {task.text!r} is empty in every row")
    return CheckedRows(parts, tagged.labels, tagged.remarks)


def _embedded(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
    """Texts alone to learn from; of other splits also pairs, where they say how alike their texts are."""
    pair = task.text_pair
    scored = {
        split: rows
        for split, rows in raw.items()
        if split != "train" and {pair, task.label_column} <= set(rows.column_names)
    }
    likeness = read_values(task, scored, where)
    parts = {}
    for split, rows in raw.items():
        first = text_column(rows, task.text, where[split])
        second = None
        if pair is not None and pair in rows.column_names and (split == "train" or split in scored):
            second = text_column(rows, pair, where[split])
        if split in scored:
            columns = {"text": first, "text_pair": second, "label": likeness.splits[split]}
            parts[split] = _as_dataset(columns)
        else:
            # Both texts of a pair are texts to learn from.
            chunks = [*first.chunks, *(second.chunks if second is not None else [])]
            parts[split] = _as_dataset({"text": pa.chunked_array(chunks)})
    return CheckedRows(parts, VECTOR, likeness.remarks)
