"""Rows of multiple-choice tasks: passage, question, choices, and the number of the right choice.

Choices are read from a column of lists, of objects (ARC) or of printed lists, or from one column for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice
from schemas.core.wording import printable
from stages.data.columns.columns import Column, Parsed
from stages.data.columns.list_columns import lists_of_text
from stages.data.columns.right_choice import Question, right_choices
from stages.data.columns.text_columns import Task, joined_text, task_texts
from stages.data.columns.written_lists import NotAList, is_written_list, lists_by_name, written_list
from stages.data.readers.files import check_column, is_text, text_column

FILLED, OTHER = "____", "…"
"""Replacements in a passage for the blank in question, and for all other blanks."""

_EXAMPLE = '["one", "two"], or {"text": ["one", "two"], "label": ["A", "B"]}'


@dataclass(frozen=True)
class Choices:
    """The choices of a split's rows."""

    texts: list[list[str]]
    keys: Sequence[Sequence[str]] = ()
    """Names of the choices in each row, such as A, B, C; a single entry holds for all rows."""
    in_rows: bool = False
    """The keys are part of the rows; otherwise they are names of columns."""
    are_numbers: bool = False
    remarks: tuple[str, ...] = ()

    def question(self, row: int, answer: Any, where: str) -> Question:
        """Return the question of a row, counted from 1, with the answer in the data."""
        if self.are_numbers and isinstance(answer, int) and not isinstance(answer, bool):
            answer = str(answer)  # it may be the text of a choice
        keys = self.keys[row - 1 if self.in_rows else 0] if self.keys else ()
        return Question(answer, self.texts[row - 1], where, keys)


def read_choices(
    task: Task, problem: MultipleChoice, raw: Mapping[str, Dataset], where: Mapping[str, str]
) -> Parsed[Dataset]:
    """Return `text`, `text_pair` if there is a question, `choices`, and `label`, the number of the right choice.

    Args:
        task: names the columns.
        problem: names the columns of the choices, and perhaps how answers are read.
        raw: the splits as read.
        where: location of each split in messages.

    Raises:
        DataError: a row has fewer than two choices, or its answer is none of them or ambiguous.
    """
    texts: dict[str, dict[str, Any]] = {}
    questions: dict[str, list[Question]] = {}
    choices = {split: _choices(problem, rows, where[split]) for split, rows in raw.items()}
    for split, rows in raw.items():
        column = Column(rows, task.label_column, where[split], noun="label")
        if problem.blank is None:
            questions[split] = [choices[split].question(row, value, column.at(row)) for row, value in column.numbered()]
            texts[split] = dict(task_texts(task, rows, where[split]))
        else:
            texts[split], questions[split] = _blanks(task, problem.blank, column, choices[split])
    if all(isinstance(rows.features.get(task.label_column), ClassLabel) for rows in raw.values()):
        problem = problem.model_copy(update={"first": 0})  # a ClassLabel counts from 0
    in_rows = any(column.in_rows for column in choices.values())
    every = [question for split in questions.values() for question in split]
    labels, remarks = right_choices(problem, every, are_keys=in_rows)
    right = iter(labels)
    splits = {}
    for split, asked in questions.items():
        lists = pa.array([question.choices for question in asked], pa.list_(pa.string()))
        numbers = pa.array([next(right) for _ in asked], pa.int64())
        splits[split] = Dataset(pa.table({**texts[split], "choices": lists, "label": numbers}))
    read = dict.fromkeys(remark for column in choices.values() for remark in column.remarks)
    return Parsed(splits, remarks=(*read, *remarks))


def _blanks(task: Task, blank: str, labels: Column, choices: Choices) -> tuple[dict[str, Any], list[Question]]:
    """Return the text columns and the questions, with one row for every blank of every passage."""
    pattern = re.compile(re.escape(blank).replace(re.escape("{number}"), r"\d+"))
    texts: list[str] = []
    row_of: list[int] = []
    questions: list[Question] = []
    passages_of = _passages(task, labels.rows, labels.where)
    for (row, value), passages in zip(labels.numbered(), passages_of, strict=True):
        answers = value if isinstance(value, list) else [value]
        filled = [text for passage in passages for text in _fill_each(passage, pattern)]
        if len(filled) != len(answers) or not filled:
            raise DataError(
                f"{labels.where}: row {row}: column {task.text!r} has {len(filled)} blanks {blank} but {labels.name!r} "
                f"has {len(answers)} answers; give one answer for each blank, in order"
            )
        questions += [choices.question(row, answer, labels.at(row)) for answer in answers]
        texts += filled
        row_of += [row - 1] * len(filled)
    columns: dict[str, Any] = {"text": pa.array(texts, pa.string())}
    if task.text_pair is not None:
        columns["text_pair"] = joined_text(labels.rows, task.text_pair, labels.where).take(pa.array(row_of))
    return columns, questions


def _passages(task: Task, rows: Dataset, where: str) -> Iterator[list[str]]:
    """Yield the passages of every row: one text, or a list of texts."""
    check_column(rows.column_names, task.text, where)
    if hasattr(rows.features[task.text], "feature"):
        return lists_of_text(Column(rows, task.text, where)).by_row()
    return ([text] for text in joined_text(rows, task.text, where).to_pylist())


def _fill_each(passage: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the passage once for each blank, with that blank marked and the others elided."""
    parts = pattern.split(passage)
    for blank in range(1, len(parts)):
        yield OTHER.join(parts[:blank]) + FILLED + OTHER.join(parts[blank:])


def _choices(problem: MultipleChoice, rows: Dataset, where: str) -> Choices:
    """Read the choices of every row of a split."""
    if not isinstance(problem.choices, str):
        columns = (text_column(rows, name, where).to_pylist() for name in problem.choices)
        return Choices([list(row) for row in zip(*columns, strict=True)], [problem.choices])
    name = problem.choices
    if name not in rows.column_names and f"{name}.text" in rows.column_names:
        name = f"{name}.text"  # objects that were flattened
    check_column(rows.column_names, name, where)
    column, feature = Column(rows, name, where), rows.features[name]
    inner = getattr(feature, "feature", None)
    keys = name.removesuffix(".text") + ".label"
    if isinstance(feature, dict) or isinstance(inner, dict):
        choices = _with_keys(column, [_object(column, row, value) for row, value in column.numbered()])
    elif is_text(feature):
        remark = f"task.problem.choices: the texts of column {name!r} are read as lists"
        choices = _with_keys(column, [_printed(column, row, value) for row, value in column.numbered()], (remark,))
    elif name.endswith(".text") and keys in rows.column_names:
        labels = lists_of_text(Column(rows, keys, where)).by_row()
        choices = _with_keys(Column(rows, keys, where), [*zip(lists_of_text(column).by_row(), labels, strict=True)])
    else:
        texts = [*lists_of_text(column).by_row()]
        choices = Choices(texts, are_numbers="int" in str(getattr(inner, "dtype", "")))
    for row, items in enumerate(choices.texts, start=1):
        if len(items) < 2:
            raise column.error(row, f"has one choice, {printable(items[0], 60)!r}; give two or more, or drop the row")
    return choices


def _with_keys(column: Column, rows: list[tuple[list[str], list[str]]], remarks: tuple[str, ...] = ()) -> Choices:
    """Return choices from pairs of texts and keys, if any row has keys."""
    texts, keys = [row[0] for row in rows], [row[1] for row in rows]
    if not any(keys):
        return Choices(texts, remarks=remarks)
    for row, (items, names) in enumerate(rows, start=1):
        if len(items) != len(names) or len(set(names)) != len(names):
            raise column.error(
                row,
                f"has {len(items)} choices with the labels {printable(', '.join(names), 60) or '(none)'}; give each "
                "choice a different label",
            )
    return Choices(texts, keys, in_rows=True, remarks=remarks)


def _object(column: Column, row: int, value: object) -> tuple[list[str], list[str]]:
    """Return texts and keys of `{"text": [...], "label": [...]}`, or of a list of such objects with one choice each."""
    texts, keys = _field(value, "text"), _field(value, "label")
    if not texts or keys is None:
        raise column.error(row, f"is {printable(str(value), 60)}; write {_EXAMPLE}")
    return texts, keys


def _field(value: object, name: str) -> list[str] | None:
    """Return a field of all choices; empty if the row lacks it, None if it holds anything but texts."""
    if isinstance(value, list):
        value = {name: [item.get(name) for item in value]}
    items = value.get(name) if isinstance(value, dict) else None
    if items is None or (isinstance(items, list) and all(item is None for item in items)):
        return []
    if not isinstance(items, list) or not all(isinstance(item, str | int) and item != "" for item in items):
        return None
    return [str(item) for item in items]


def _printed(column: Column, row: int, text: str | None) -> tuple[list[str], list[str]]:
    """Return texts and keys of a list or an object as Python, numpy or JSON print it."""
    # The commas of [He went, she left] may belong to a choice.
    if text is None or not is_written_list(text) or (re.search(r"[^\W\d_]", text) and not re.search("['\"]", text)):
        raise column.error(
            row,
            f"is {'missing' if text is None else repr(printable(text, 60))}, not a list; write {_EXAMPLE}, or name a "
            "column for each choice, choices: [one, two]",
        )
    try:
        by_name = lists_by_name(text)
        items = by_name.get("text", []) if by_name is not None else written_list(text)
    except NotAList as error:
        raise DataError(f"{column.at(row)}: {printable(text, 60)} {error}; write {_EXAMPLE}") from None
    keys = (by_name or {}).get("label", [])
    if isinstance(items, dict) or not items or not all(items) or not all(keys):
        raise column.error(row, f"is {printable(text, 60)}, not a list of texts; write {_EXAMPLE}")
    return [item for item in items if item], [key for key in keys if key]
