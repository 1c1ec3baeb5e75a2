"""The texts of a task's rows: lists joined, objects opened, spans put between signs."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
from datasets import Dataset, Value

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice
from schemas.core.wording import printable
from schemas.data.tasks import FileTask, HubTask, Mark
from stages.data.columns.list_columns import list_column, texts_of_lists
from stages.data.readers.files import check_column, text_column

Task = FileTask | HubTask
_BETWEEN = " "


def opened(task: Task, rows: Dataset) -> Dataset:
    """The rows with the insides of objects as columns of their own, where one that the task names is such an inside."""
    named = [task.text, task.text_pair or "", *task.label_columns]
    if isinstance(task.problem, MultipleChoice):
        choices = task.problem.choices
        named += [choices] if isinstance(choices, str) else choices
    named += [name for mark in task.marks for name in (mark.text, mark.start)]
    if not any("." in name and name not in rows.column_names for name in named):
        return rows
    flat = rows.flatten()
    # Of a data set of several files, datasets' own flattened table loses such columns when one is selected.
    return Dataset(flat.data.table, info=flat.info)


def task_texts(task: Task, rows: Dataset, where: str) -> dict[str, pa.ChunkedArray]:
    """The columns `text` and, for pairs, `text_pair`.

    Raises:
        DataError: a row has no text, or a span does not stand where it is said to; with its place and what to do.
    """
    columns = {"text": joined_text(rows, task.text, where)}
    if task.marks:
        columns["text"] = _marked(columns["text"], task.marks, rows, where)
    if task.text_pair is not None:
        columns["text_pair"] = joined_text(rows, task.text_pair, where)
    return columns


def joined_text(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    """A column of texts; lists of texts are joined by spaces.

    Raises:
        DataError: a row is neither.
    """
    check_column(rows.column_names, column, where)
    inner = getattr(rows.features[column], "feature", None)
    if not isinstance(inner, Value) or inner.dtype not in ("string", "large_string"):
        return text_column(rows, column, where)
    lists = texts_of_lists(rows, column, where, separator=None)
    return pa.chunked_array([pa.array(map(_BETWEEN.join, lists.by_row()), pa.string())])


def _marked(texts: pa.ChunkedArray, marks: tuple[Mark, ...], rows: Dataset, where: str) -> pa.ChunkedArray:
    """Every text with its spans between their signs."""
    spans = [
        list(zip(text_column(rows, mark.text, where).to_pylist(), _starts(rows, mark, where), strict=True))
        for mark in marks
    ]
    marked = []
    for row, text in enumerate(texts.to_pylist(), start=1):
        places: list[tuple[int, int, tuple[str, str]]] = []
        for mark, own in zip(marks, spans, strict=True):
            span, start = own[row - 1]
            if start < 0 or text[start : start + len(span)] != span:
                found = text[max(start, 0) : max(start, 0) + len(span)]
                raise DataError(
                    f"{where}: row {row}: column {mark.text!r}: {printable(span, 60)!r} does not stand at character "
                    f"{start} of the text, {printable(found, 60)!r} does; count {mark.start} in characters from 0, or "
                    "drop the row"
                )
            places.append((start, start + len(span), mark.signs))
        marked.append(_with_signs(text, places, f"{where}: row {row}"))
    return pa.chunked_array([pa.array(marked, pa.string())])


def _starts(rows: Dataset, mark: Mark, where: str) -> list[int]:
    starts = []
    for row, value in list_column(rows, mark.start, where):
        number = whole_number(value)
        if number is None:
            raise DataError(
                f"{where}: row {row}: column {mark.start!r} is {printable(str(value), 60)!r}, not a whole number; give "
                "the place of the span's first character"
            )
        starts.append(number)
    return starts


def whole_number(value: object) -> int | None:
    """A whole number as files give it, perhaps as text; None where it is none."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _with_signs(text: str, places: list[tuple[int, int, tuple[str, str]]], where: str) -> str:
    """Signs put in from the last span to the first, so that no place moves before it is used."""
    places = sorted(places)
    for (_, end, _), (start, _, _) in pairwise(places):
        if start < end:
            raise DataError(f"{where}: the spans of task.marks overlap; mark one of them alone")
    for start, end, (before, after) in reversed(places):
        text = text[:start] + before + text[start:end] + after + text[end:]
    return text
