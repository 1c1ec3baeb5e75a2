"""Rows that ask to choose among written answers: passage, question, choices, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from datasets import Dataset

from schemas.errors import DataError
from schemas.problems import MultipleChoice
from schemas.yaml_text import printable
from stages.files import check_column, listed, text_column
from stages.lists import list_column, texts_of_lists
from stages.texts import Task, joined_text, task_texts, whole_number

FILLED, OTHER = "____", "…"
"""What stands in a passage for the blank that is asked about, and for every other one."""


def choice_rows(task: Task, problem: MultipleChoice, rows: Dataset, where: str) -> Dataset:
    """The rows with `text`, perhaps `text_pair`, `choices`, and `label`, the number of the right choice.

    Raises:
        DataError: a row has fewer than two choices, or says none of them is right; with its place and what to do.
    """
    choices = _choices(problem, rows, where)
    if problem.blank is not None:
        return _blanks(task, problem.blank, rows, choices, where)
    columns: dict[str, Any] = dict(task_texts(task, rows, where))
    labels = [
        _right(value, choices[row - 1], f"{where}: row {row}: label {task.label_column!r}")
        for row, value in list_column(rows, task.label_column, where)
    ]
    return _dataset(columns, choices, labels)


def _dataset(columns: dict[str, Any], choices: list[list[str]], labels: list[int]) -> Dataset:
    columns["choices"] = pa.array(choices, pa.list_(pa.string()))
    columns["label"] = pa.array(labels, pa.int64())
    return Dataset(pa.table(columns))


def _choices(problem: MultipleChoice, rows: Dataset, where: str) -> list[list[str]]:
    """The choices of every row."""
    if not isinstance(problem.choices, str):
        given = (text_column(rows, name, where).to_pylist() for name in problem.choices)
        return [list(row) for row in zip(*given, strict=True)]
    choices = [*texts_of_lists(rows, problem.choices, where, separator=None).by_row()]
    for row, own in enumerate(choices, start=1):
        if len(own) < 2:
            raise DataError(
                f"{where}: row {row}: column {problem.choices!r} has one choice, {printable(own[0], 60)!r}; give two "
                "or more, or drop the row"
            )
    return choices


def _right(value: Any, choices: list[str], where: str) -> int:
    """The number of the choice that a label means: its text, its number from 0, or its letter from A."""
    text = value.strip() if isinstance(value, str) else None
    for meant in (value, text):
        if meant in choices:
            return choices.index(meant)
    number = whole_number(value)
    if number is None and text is not None and re.fullmatch("[A-Za-z]", text):
        number = ord(text.upper()) - ord("A")
    if number is not None and 0 <= number < len(choices):
        return number
    found = "missing" if value is None else printable(str(value), 60) or "empty"
    raise DataError(
        f"{where} is {found}, none of the row's {len(choices)} choices ({listed(choices)}); give the right one's text, "
        "its number from 0 or its letter from A (test splits often hide it; take another split)"
    )


def _blanks(task: Task, blank: str, rows: Dataset, choices: list[list[str]], where: str) -> Dataset:
    """A row for every blank of every passage."""
    pattern = re.compile(re.escape(blank).replace(re.escape("{number}"), r"\d+"))
    texts: list[str] = []
    row_of: list[int] = []
    labels: list[int] = []
    for (row, value), own, passages in zip(
        list_column(rows, task.label_column, where),
        choices,
        _passages(task, rows, where),
        strict=True,
    ):
        answers = value if isinstance(value, list) else [value]
        found = [text for passage in passages for text in _filled(passage, pattern)]
        if len(found) != len(answers) or not found:
            raise DataError(
                f"{where}: row {row}: column {task.text!r} has {len(found)} blanks {blank} but {task.label_column!r} "
                f"{len(answers)} answers; give each blank one, in their order"
            )
        place = f"{where}: row {row}: label {task.label_column!r}"
        labels += [_right(answer, own, place) for answer in answers]
        texts += found
        row_of += [row - 1] * len(found)
    columns: dict[str, Any] = {"text": pa.array(texts, pa.string())}
    if task.text_pair is not None:
        columns["text_pair"] = joined_text(rows, task.text_pair, where).take(pa.array(row_of))
    return _dataset(columns, [choices[row] for row in row_of], labels)


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
