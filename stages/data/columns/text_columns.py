"""Text columns of a task: lists joined, objects flattened, spans marked; and answers that are spans of a context."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pyarrow as pa
from datasets import Dataset, Value

from schemas.core.errors import DataError
from schemas.core.wording import printable
from schemas.data.tasks import FileTask, HubTask, Mark
from stages.data.columns.columns import Column, Parsed
from stages.data.columns.list_columns import lists_of_text
from stages.data.readers.files import check_column, text_column

Task = FileTask | HubTask
Span = tuple[int, int, tuple[str, str]]
"""Start and end in characters, and the signs before and after."""


def flatten_objects(task: Task, rows: Dataset) -> Dataset:
    """Return the rows with fields of objects as columns, `OBJECT.FIELD`, if the task names such a field."""
    names = [task.text, task.text_pair or "", *task.label_columns]
    names += task.problem.columns
    names += [name for mark in task.marks for name in (mark.text, mark.start)]
    if not any("." in name and name not in rows.column_names for name in names):
        return rows
    flat = rows.flatten()
    # datasets' own flattened table loses such columns when one of them is selected from a data set of several files.
    return Dataset(flat.data.table, info=flat.info)


def task_texts(task: Task, rows: Dataset, where: str) -> dict[str, pa.ChunkedArray]:
    """Return the columns `text` and, for pairs, `text_pair`.

    Raises:
        DataError: a row has no text, or a marked span is not at its offset.
    """
    columns = {"text": joined_text(rows, task.text, where)}
    if task.marks:
        columns["text"] = _mark_spans(columns["text"], task.marks, rows, where)
    if task.text_pair is not None:
        columns["text_pair"] = joined_text(rows, task.text_pair, where)
    return columns


def joined_text(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    """Return a column of texts; lists of texts are joined by spaces.

    Raises:
        DataError: a row is neither a text nor a list of texts.
    """
    check_column(rows.column_names, column, where)
    inner = getattr(rows.features[column], "feature", None)
    if not isinstance(inner, Value) or inner.dtype not in ("string", "large_string"):
        return text_column(rows, column, where)
    lists = lists_of_text(Column(rows, column, where))
    return pa.chunked_array([pa.array(map(" ".join, lists.by_row()), pa.string())])


def _mark_spans(texts: pa.ChunkedArray, marks: tuple[Mark, ...], rows: Dataset, where: str) -> pa.ChunkedArray:
    unmarked = texts.to_pylist()
    spans_of: list[list[Span]] = [[] for _ in unmarked]
    for mark in marks:
        column, starts = Column(rows, mark.text, where), Column(rows, mark.start, where)
        contents = text_column(rows, mark.text, where).to_pylist()
        for text, content, spans, (row, value) in zip(unmarked, contents, spans_of, starts.numbered(), strict=True):
            start = whole_number(value)
            if start is None:
                raise starts.error(
                    row,
                    f"is {printable(str(value), 60)!r}, not a whole number; give the offset of the span's first "
                    "character",
                )
            _check_span(column, row, content, start, text, mark.start)
            spans.append((start, start + len(content), mark.signs))
    marked = []
    for row, (text, spans) in enumerate(zip(unmarked, spans_of, strict=True), start=1):
        spans.sort()
        if any(end > start for (_, end, _), (start, _, _) in pairwise(spans)):
            raise DataError(f"{where}: row {row}: the spans of task.marks overlap; mark only one of them")
        for start, end, (before, after) in reversed(spans):  # from the last, so that offsets stay valid
            text = text[:start] + before + text[start:end] + after + text[end:]
        marked.append(text)
    return pa.chunked_array([pa.array(marked, pa.string())])


def _check_span(column: Column, row: int, span: str, start: int, text: str, offset: str) -> None:
    """Refuse a span that is not at its offset; `offset` names the column or key that gives it."""
    actual = text[max(start, 0) : max(start, 0) + len(span)]
    if start < 0 or actual != span:
        raise DataError(
            f"{column.at(row)}: {printable(span, 60)!r} is not at character {start} of the text, which reads "
            f"{printable(actual, 60)!r} at that offset; count {offset} in characters from 0, or drop the row"
        )


def whole_number(value: object) -> int | None:
    """Return a whole number that a file holds as a number or as text; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_answers(
    task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]
) -> Parsed[dict[str, pa.Array | pa.ChunkedArray]]:
    """Return `text` (question), `text_pair` (context), `answers` and `starts` (offsets in characters) of every split.

    Raises:
        DataError: the task names no context, or an answer is not at its offset.
    """
    if task.text_pair is None:
        raise DataError("task.text_pair: a question_answering task needs the column of the context, such as context")
    splits = {}
    for split, rows in raw.items():
        columns: dict[str, Any] = task_texts(task, rows, where[split])
        column = Column(rows, task.label_column, where[split])
        answers: list[list[str]] = []
        starts: list[list[int]] = []
        contexts = columns["text_pair"].to_pylist()
        for (row, value), context in zip(column.numbered(), contexts, strict=True):
            texts, offsets = _answers(column, row, value)
            for text, start in zip(texts, offsets, strict=True):
                _check_span(column, row, text, start, context, "answer_start")
            answers.append(texts)
            starts.append(offsets)
        columns["answers"] = pa.array(answers, pa.list_(pa.string()))
        columns["starts"] = pa.array(starts, pa.list_(pa.int64()))
        splits[split] = columns
    return Parsed(splits)


def _answers(column: Column, row: int, value: Any) -> tuple[list[str], list[int]]:
    """Return the texts and offsets of an object of lists, or of a list of objects (SQuAD's own files)."""
    example = '{"text": ["…"], "answer_start": [0]}, or empty lists where there is no answer'
    if isinstance(value, list):
        objects = [item if isinstance(item, dict) else {} for item in value]
        value = {name: [item.get(name) for item in objects] for name in ("text", "answer_start")}
    if not isinstance(value, dict) or not {"text", "answer_start"} <= value.keys():
        raise column.error(row, f"is {'missing' if value is None else printable(str(value), 60)}; write {example}")
    texts, starts = value["text"], value["answer_start"]
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) and text for text in texts)
        or not all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    ):
        raise DataError(
            f"{column.at(row)}: text and answer_start must be lists of the same length, of texts and whole numbers; "
            f"write {example}"
        )
    return texts, starts
