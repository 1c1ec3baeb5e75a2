"""The choices of every row, from a column of lists, of objects (ARC) or of printed lists, or from a column for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice
from schemas.core.wording import printable
from stages.data.columns.list_columns import list_column, texts_of_lists
from stages.data.columns.right_choice import Asked
from stages.data.columns.written_lists import NotAList, is_written_list, lists_by_name, written_list
from stages.data.readers.files import check_column, is_text, text_column


@dataclass(frozen=True)
class Choices:
    """The choices of a split's rows."""

    texts: list[list[str]]
    keys: Sequence[Sequence[str]]
    """What each row, or the file's header, calls its choices; one for all rows, or none."""
    are_keys: bool = False
    """Whether the keys are the rows' own."""
    are_numbers: bool = False
    """Whether the choices are numbers and not text."""
    remarks: tuple[str, ...] = ()

    def asked(self, row: int, answer: Any, place: str) -> Asked:
        """The question of a row, counted from 0, with the answer that the data gives."""
        is_number = isinstance(answer, int) and not isinstance(answer, bool)
        if self.are_numbers and is_number:
            answer = str(answer)  # it may be one of the choices
        keys = self.keys[row if self.are_keys else 0] if self.keys else ()
        return Asked(answer, self.texts[row], place, keys)


def read_choices(problem: MultipleChoice, rows: Dataset, where: str) -> Choices:
    """The choices of every row.

    Raises:
        DataError: a row has fewer than two, or a column is missing or of another kind; with its place.
    """
    if not isinstance(problem.choices, str):
        given = (text_column(rows, name, where).to_pylist() for name in problem.choices)
        return Choices([list(row) for row in zip(*given, strict=True)], [problem.choices])
    column = _column_of_texts(problem.choices, rows, where)
    found = _column_choices(column, rows, where)
    for row, own in enumerate(found.texts, start=1):
        if len(own) < 2:
            raise DataError(
                f"{where}: row {row}: column {column!r} has one choice, {printable(own[0], 60)!r}; give two or more, "
                "or drop the row"
            )
    return found


def _column_of_texts(column: str, rows: Dataset, where: str) -> str:
    """The column itself, or the texts in it where objects were opened into columns of their own."""
    if column not in rows.column_names and f"{column}.text" in rows.column_names:
        return f"{column}.text"
    check_column(rows.column_names, column, where)
    return column


def _column_choices(column: str, rows: Dataset, where: str) -> Choices:
    feature = rows.features[column]
    inner = getattr(feature, "feature", None)
    if isinstance(feature, dict) or isinstance(inner, dict):
        return _objects(column, rows, where)
    if is_text(feature):
        return _printed(column, rows, where)
    texts = [*texts_of_lists(rows, column, where, separator=None).by_row()]
    labels = column.removesuffix(".text") + ".label"
    if column.endswith(".text") and labels in rows.column_names:
        keys = [*texts_of_lists(rows, labels, where, separator=None).by_row()]
        return _with_keys(texts, keys, labels, where)
    return Choices(texts, (), are_numbers="int" in str(getattr(inner, "dtype", "")))


def _objects(column: str, rows: Dataset, where: str) -> Choices:
    """`{"text": ["a", "b"], "label": ["A", "B"]}`, or a list of such objects with one choice each."""
    texts: list[list[str]] = []
    keys: list[list[str]] = []
    for row, value in list_column(rows, column, where):
        place = f"{where}: row {row}: column {column!r}"
        told, named = (_side(value, name) for name in ("text", "label"))
        if not told or named is None:
            raise DataError(
                f'{place} is {printable(str(value), 60)}; write {{"text": ["one", "two"], "label": ["A", "B"]}}, or a '
                "list of texts"
            )
        texts.append(told)
        keys.append(named)
    return _with_keys(texts, keys, column, where) if any(keys) else Choices(texts, ())


def _side(value: object, name: str) -> list[str] | None:
    """The texts or the labels of a row's choices; empty where it has none, None where they are no texts."""
    if isinstance(value, list):
        value = {name: [each.get(name) for each in value]}
    told = value.get(name) if isinstance(value, dict) else None
    if told is None or (isinstance(told, list) and not any(each is not None for each in told)):
        return []
    if not isinstance(told, list) or not all(isinstance(each, str | int) and each != "" for each in told):
        return None
    return [str(each) for each in told]


def _with_keys(texts: list[list[str]], keys: list[list[str]], column: str, where: str) -> Choices:
    for row, (own, named) in enumerate(zip(texts, keys, strict=True), start=1):
        if len(own) != len(named) or len(set(named)) != len(named):
            raise DataError(
                f"{where}: row {row}: column {column!r} has {len(own)} choices and the labels "
                f"{printable(', '.join(named), 60) or 'of none'}; give each choice a label of its own"
            )
    return Choices(texts, keys, are_keys=True)


def _printed(column: str, rows: Dataset, where: str) -> Choices:
    """Lists, or objects of them, that a text column holds as Python, numpy or JSON print them."""
    texts: list[list[str]] = []
    keys: list[list[str]] = []
    for row, value in list_column(rows, column, where):
        place = f"{where}: row {row}: column {column!r}"
        # The commas of [He went, she left] may be a choice's own.
        is_torn = value is not None and re.search(r"[^\W\d_]", value) and not re.search("['\"]", value)
        if value is None or not is_written_list(value) or is_torn:
            shown = "missing" if value is None else repr(printable(value, 60))
            raise DataError(
                f'{place} is {shown}, not a list; write ["one", "two"], or name a column for each choice, choices: '
                "[one, two]"
            )
        own, named = _items(value, place)
        texts.append(own)
        keys.append(named)
    remark = f"task.problem.choices: the texts of column {column!r} are read as lists"
    found = _with_keys(texts, keys, column, where) if any(keys) else Choices(texts, ())
    return replace(found, remarks=(remark,))


def _items(text: str, place: str) -> tuple[list[str], list[str]]:
    """The texts of a printed row's choices, and their labels where it has some."""
    try:
        by_name = lists_by_name(text)
        found = by_name.get("text", []) if by_name is not None else written_list(text)
    except NotAList as error:
        raise DataError(f'{place}: {printable(text, 60)} {error}; write ["one", "two"]') from None
    labels = (by_name or {}).get("label", [])
    if isinstance(found, dict) or not found or not all(found) or not all(labels):
        raise DataError(
            f'{place} is {printable(text, 60)}, not a list of texts; write ["one", "two"], or {{"text": ["one", '
            '"two"], "label": ["A", "B"]}'
        )
    return [item for item in found if item], [label for label in labels if label]
