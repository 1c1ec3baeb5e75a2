"""Rows of a file, by the readers that tasks are read with; some at a time, so that any file fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset

from pipeline.predict.cache import cache_of
from pipeline.store.files import storage_errors
from schemas.core.errors import DataError
from schemas.core.kinds import QuestionAnswering, TokenClassification
from schemas.data.file_format import Encoding, FileFormat
from schemas.data.tasks import FileTask
from schemas.results.export import TaskForm
from stages.data.files.file_names import FORMATS, file_format, resolve_file
from stages.data.files.limits import rows_at_once
from stages.data.files.read_request import Reading
from stages.data.formats.conll import has_sentences
from stages.data.readers.files import read_file
from stages.data.readers.row_lines import with_line
from stages.data.readers.squad import is_squad, read_squad
from stages.predictions.rows import Columns, Row, choose_columns

_OPTION = "--file"
_MOST_ROWS = 1000
_WORDS, _TAGS = "words", "tags"


def rows_of_file(
    name: str,
    form: TaskForm,
    *,
    encoding: Encoding | None = None,
    given: Sequence[str] = (),
    kept: Sequence[str] = (),
    store: Path | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of a file, some at a time.

    Args:
        name: the file.
        form: the task's.
        encoding: of its text; None for UTF-8, or that of its byte order mark.
        given: `--text-columns`.
        kept: `--keep`.
        store: the store whose cache keeps what was read; where there is no store, a temporary folder does.

    Raises:
        DataError: the file cannot be read; with the line where there is one.
    """
    path = resolve_file(name, _OPTION)
    reading = _reading(path, form, encoding)
    with cache_of(store) as cache:
        if FORMATS.get(file_format(path, _OPTION)) == "parquet":
            reading = replace(reading, named=_of_parquet(path, form, given, kept))
        rows = _read(path, form, reading, cache)
        columns = choose_columns(form, rows.column_names, f"{_OPTION}: {path}", given=given, kept=kept)
        yield from _chunks(rows, columns, path, reading)


def _reading(path: Path, form: TaskForm, encoding: Encoding | None) -> Reading:
    layout = FileFormat(encoding=encoding)
    if not isinstance(form.problem, TokenClassification):
        return Reading(format=layout)
    reading = Reading((_WORDS, _TAGS), words=True, format=layout)
    if file_format(path, _OPTION) == ".txt" and not has_sentences(path, reading):
        # A text a line, where tasks would read a word a line.
        return replace(reading, format=FileFormat(encoding=encoding, layout="table"))
    return reading


def _read(path: Path, form: TaskForm, reading: Reading, cache: Path) -> Dataset:
    if isinstance(form.problem, QuestionAnswering) and is_squad(path):
        task = FileTask(train=str(path), validation=str(path), text="question", text_pair="context", label="answers")
        return read_squad(path, task, f"{_OPTION}: {path}")
    with storage_errors(cache):
        return read_file(path, cache, _OPTION, reading).rows


def _of_parquet(path: Path, form: TaskForm, given: Sequence[str], kept: Sequence[str]) -> frozenset[str] | None:
    """Return the columns to read, so that the others cost nothing; None where the file has no schema to read."""
    try:
        names = pq.read_schema(path).names
    except Exception:  # pyarrow raises anything; the reader of the rows reports it
        return None
    columns = choose_columns(form, names, f"{_OPTION}: {path}", given=given, kept=kept)
    wanted = (columns.text, columns.pair or "", *columns.choices, *kept)
    return frozenset((*wanted, *(name.partition(".")[0] for name in wanted)))


def _chunks(rows: Dataset, columns: Columns, path: Path, reading: Reading) -> Iterator[list[Row]]:
    wanted = dict.fromkeys((columns.text, columns.pair or "", *columns.choices, *columns.kept))
    present = [
        name for name in rows.column_names if name in wanted or name in {key.partition(".")[0] for key in wanted}
    ]
    rows = rows.select_columns(present)
    where = f"{_OPTION}: {path}"
    size = rows_at_once(rows, _MOST_ROWS)
    for start in range(0, len(rows), size):
        values = rows[start : start + size]
        chunk: list[Row] = []
        for index in range(len(values[present[0]])):
            number = start + index + 1
            try:
                row = {name: values[name][index] for name in present}
                chunk.append(columns.row(row, number, f"{where}: row {number}"))
            except DataError as error:
                if chunk:
                    yield chunk
                raise DataError(with_line(str(error), where, path, reading)) from None
        yield chunk
