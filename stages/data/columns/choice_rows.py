"""Rows that ask to choose among written answers: passage, question, choices, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice
from stages.data.columns.choice_lists import Choices, read_choices
from stages.data.columns.list_columns import list_column, texts_of_lists
from stages.data.columns.right_choice import Asked, right_choices
from stages.data.columns.text_columns import Task, joined_text, task_texts
from stages.data.readers.files import check_column

FILLED, OTHER = "____", "…"
"""What stands in a passage for the blank that is asked about, and for every other one."""


def choice_rows(
    task: Task, problem: MultipleChoice, raw: Mapping[str, Dataset], where: Mapping[str, str]
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Every split with `text`, perhaps `text_pair`, `choices`, and `label`, the right one's number; and remarks.

    Args:
        task: names the columns.
        problem: says where the choices stand, and perhaps how answers are read.
        raw: the splits as they were read.
        where: how messages name each split.

    Raises:
        DataError: a row has fewer than two choices, or its answer is none of them, or it may be any of two; with its
            place and what to do.
    """
    drafts: dict[str, tuple[dict[str, Any], list[Asked]]] = {}
    given = {split: read_choices(problem, rows, where[split]) for split, rows in raw.items()}
    for split, rows in raw.items():
        draft = _questions if problem.blank is None else _blanks
        drafts[split] = draft(task, problem, rows, given[split], where[split])
    if all(isinstance(rows.features.get(task.label_column), ClassLabel) for rows in raw.values()):
        problem = problem.model_copy(update={"first": 0})  # the data set itself counts its answers
    are_keys = any(each.are_keys for each in given.values())
    asked = [each for _, questions in drafts.values() for each in questions]
    labels, remarks = right_choices(problem, asked, are_keys=are_keys)
    made, start = {}, 0
    for split, (columns, questions) in drafts.items():
        end = start + len(questions)
        columns["choices"] = pa.array([each.choices for each in questions], pa.list_(pa.string()))
        columns["label"] = pa.array(labels[start:end], pa.int64())
        made[split], start = Dataset(pa.table(columns)), end
    return made, (*dict.fromkeys(remark for each in given.values() for remark in each.remarks), *remarks)


def _questions(
    task: Task, problem: MultipleChoice, rows: Dataset, given: Choices, where: str
) -> tuple[dict[str, Any], list[Asked]]:
    """The columns of text, and every row's question."""
    asked = [
        given.asked(row - 1, value, f"{where}: row {row}: label {task.label_column!r}")
        for row, value in list_column(rows, task.label_column, where)
    ]
    return dict(task_texts(task, rows, where)), asked


def _blanks(
    task: Task, problem: MultipleChoice, rows: Dataset, given: Choices, where: str
) -> tuple[dict[str, Any], list[Asked]]:
    """The columns of text with a row for every blank of every passage, and each one's question."""
    assert problem.blank is not None
    pattern = re.compile(re.escape(problem.blank).replace(re.escape("{number}"), r"\d+"))
    texts: list[str] = []
    row_of: list[int] = []
    asked: list[Asked] = []
    for (row, value), passages in zip(
        list_column(rows, task.label_column, where), _passages(task, rows, where), strict=True
    ):
        answers = value if isinstance(value, list) else [value]
        found = [text for passage in passages for text in _filled(passage, pattern)]
        if len(found) != len(answers) or not found:
            raise DataError(
                f"{where}: row {row}: column {task.text!r} has {len(found)} blanks {problem.blank} but "
                f"{task.label_column!r} {len(answers)} answers; give each blank one, in their order"
            )
        place = f"{where}: row {row}: label {task.label_column!r}"
        asked += [given.asked(row - 1, answer, place) for answer in answers]
        texts += found
        row_of += [row - 1] * len(found)
    columns: dict[str, Any] = {"text": pa.array(texts, pa.string())}
    if task.text_pair is not None:
        columns["text_pair"] = joined_text(rows, task.text_pair, where).take(pa.array(row_of))
    return columns, asked


def _passages(task: Task, rows: Dataset, where: str) -> Iterator[list[str]]:
    """The passages of every row: one, or a list of them."""
    check_column(rows.column_names, task.text, where)
    if hasattr(rows.features[task.text], "feature"):
        return texts_of_lists(rows, task.text, where, separator=None).by_row()
    return ([text] for text in joined_text(rows, task.text, where).to_pylist())


def _filled(passage: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """The passage once for every blank, that blank marked and the others passed over."""
    parts = pattern.split(passage)
    for place in range(1, len(parts)):
        yield OTHER.join(parts[:place]) + FILLED + OTHER.join(parts[place:])
