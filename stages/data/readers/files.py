"""Rows of a user's files, read once and kept in the cache as Arrow files; errors name file, row and remedy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.core.wording import printable, suggestion
from stages.data.files.file_names import CONLL_FORMATS, FORMATS, file_format
from stages.data.files.limits import MAX_ROW_BYTES, check_bounds, row_too_long
from stages.data.files.read_request import Reading, rename_columns, renamed, renaming_remark
from stages.data.files.transcoding import encoding_of
from stages.data.formats.conll import has_sentences, write_conll_rows
from stages.data.formats.csv_rows import SEPARATORS, csv_header, write_csv_rows
from stages.data.formats.parquet import columns_among, write_parquet_rows
from stages.data.readers.dataset_files import write_loaded_rows
from stages.storage.format_versions import READING_VERSION
from stages.storage.sealed_folder import file_digest, is_whole, make_whole

MAX_LABEL = 1000
_REMARKS = "remarks.json"
_FIRST = "0000.arrow"


@dataclass(frozen=True)
class FileRows:
    """The rows of a file, and remarks on how it was read."""

    rows: Dataset
    remarks: tuple[str, ...] = ()
    """One for each choice made in reading, with the file's name."""


def file_identity(path: Path, where: str) -> dict[str, str]:
    """Return all that decides the rows of a file: its content and how it is read."""
    return {"format": file_format(path, where), "sha256": file_digest(path), "reading": str(READING_VERSION)}


def read_file(path: Path, cache: Path, where: str, reading: Reading | None = None) -> FileRows:
    """Return the rows of a file with all its columns, memory-mapped from the cache; never empty.

    All columns of CSV and TSV are text, so that `NA` and `01` stay what they are.

    Args:
        path: the file.
        cache: folder that keeps what was read.
        where: the field that names the file.
        reading: the request.

    Raises:
        DataError: the file cannot be read; with the line where there is one.
        OSError: the cache cannot be written.
    """
    reading = reading or Reading()
    suffix = file_format(path, where)
    check_bounds(path, suffix, where, reading.format.encoding)
    # By content: a file replaced under the same name and time has other rows.
    identity: dict[str, object] = {
        "sha256": file_digest(path),
        "format": suffix,
        "reading": reading.identity(),
        "datasets": datasets.__version__,
        "version": READING_VERSION,
    }
    if suffix == ".parquet":
        identity["columns"] = _parquet_columns(path, reading)
    folder = cache / "files" / digest_of(identity)[:32]

    def fill(beside: Path) -> None:
        _prepare(path, reading, where, beside)
        if file_digest(path) != identity["sha256"]:
            raise DataError(
                f"{where}: {path} changed while it was read; run again once nothing writes to it, or give a copy"
            )

    if not is_whole(folder):
        make_whole(folder, fill)
    parts = sorted(folder.glob("*.arrow"))
    if not parts:
        raise DataError(f"{where}: {path} has no rows; give a file that has some")
    rows = datasets.concatenate_datasets([Dataset.from_file(str(part)) for part in parts])
    remarks = json.loads((folder / _REMARKS).read_text(encoding="utf-8"))
    return FileRows(rows, tuple(f"{where}: {path}: {remark}" for remark in remarks))


def _prepare(path: Path, reading: Reading, where: str, into: Path) -> None:
    """Write the rows of `path` as Arrow files (none if it has no rows), and the remarks.

    The remarks do not name the file: the same content under another name is not read again.
    """
    suffix = file_format(path, where)
    remarks = []
    if suffix != ".parquet" and reading.format.encoding is None and (encoding := encoding_of(path, None)) != "utf-8":
        remarks.append(f"read as {encoding.upper()}, which its byte order mark names")
    if is_conll(path, reading, where):
        remarks += write_conll_rows(path, reading, where, into / _FIRST)
    elif FORMATS[suffix] == "csv":
        remarks += write_csv_rows(path, reading, SEPARATORS[suffix], where, into / _FIRST)
    else:
        if suffix != ".parquet":
            write_loaded_rows(path, reading, where, into)
        elif not write_parquet_rows(path, where, _parquet_columns(path, reading), into / _FIRST):
            (into / _FIRST).unlink()
        remarks += _rename(sorted(into.glob("*.arrow")), reading)
    (into / _REMARKS).write_text(json.dumps(remarks), encoding="utf-8")


def is_conll(path: Path, reading: Reading, where: str) -> bool:
    """Return whether a file has one word per line, by the recipe, its name, or the lack of a header.

    Raises:
        DataError: it has, but the task does not read tagged words.
    """
    suffix, layout = file_format(path, where), reading.format.layout
    if suffix in CONLL_FORMATS or layout == "conll":
        if not reading.words:
            raise DataError(
                f"{where}: {path} holds tagged words, which are for a task with problem: token_classification; set it, "
                "or give rows of text (.jsonl, .csv, .tsv, .parquet)"
            )
        return True
    if not reading.words or layout == "table" or suffix not in (".txt", ".tsv", ".csv"):
        return False
    if suffix == ".txt" or has_sentences(path, reading):
        return True
    if suffix == ".csv":
        return False
    try:
        header = csv_header(path, Reading(reading.columns[:2]), SEPARATORS[suffix], where)
    except DataError:  # reported for the words, if these are wrong too
        return True
    return not set(reading.columns[:2]) & set(header)


def _parquet_columns(path: Path, reading: Reading) -> list[str] | None:
    """Return the columns of a Parquet file to read, None for all; the others are nulls."""
    return None if reading.named is None else columns_among(path, reading.named)


def _rename(parts: Sequence[Path], reading: Reading) -> list[str]:
    """Give columns of the written files the wanted names that they resemble; return a remark about it."""
    if not parts:
        return []
    with pa.memory_map(str(parts[0])) as file:
        names = renamed(pa.ipc.open_stream(file).schema.names, reading.columns)
    for part in parts if names else ():
        rename_columns(part, names)
    return [renaming_remark(names)] if names else []


def text_column(rows: Dataset, column: str, where: str, *, blank_allowed: bool = False) -> pa.ChunkedArray:
    """Return a column as strings, none null, and none blank unless `blank_allowed`; `where` begins error messages."""
    values = _column(rows, column, where)
    if not pa.types.is_string(values.type) or not is_text(rows.features[column]):
        _refuse_other_types(rows, column, where)
        values = values.cast(pa.string())
    _refuse_first(pc.is_null(values), f"{where}: {{row}}: column {column!r} is missing or null; give text or drop it")
    if not blank_allowed:
        blank = pc.equal(pc.utf8_trim_whitespace(values), "")
        _refuse_first(blank, f"{where}: {{row}}: column {column!r} is empty; give text or drop the row")
    if row := first_row(pc.greater(pc.binary_length(values), MAX_ROW_BYTES)):
        raise row_too_long(where, column, row)
    return values


def label_column(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    """Return the labels of `rows` as names; whole numbers and truth values as they are written."""
    values = _column(rows, column, where)
    feature = rows.features[column]
    missing = f"{where}: {{row}}: label {column!r} is missing; give the row a label or drop it"
    if isinstance(feature, datasets.ClassLabel):
        hidden = pc.fill_null(pc.less(values, 0), True)
        _refuse_first(hidden, f"{missing} (test splits hide their labels as -1; use another split)")
        return pc.take(pa.array(feature.names, pa.string()), values)
    if not is_text(feature) and not pa.types.is_integer(values.type) and not pa.types.is_boolean(values.type):
        values = pa.chunked_array([pa.array(_label_names(rows, column, where), pa.string())])
    names = values.cast(pa.string())
    _refuse_first(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(names), ""), True), missing)
    _refuse_first(
        pc.greater(pc.utf8_length(names), MAX_LABEL),
        f"{where}: {{row}}: label {column!r} is longer than {MAX_LABEL:,} characters; name the column of labels",
    )
    return names


def listed(names: Sequence[str]) -> str:
    """Return the names, shortened, and only the first twelve of many."""
    shown = ", ".join(printable(name, 60) for name in names[:12])
    return f"{shown}, … ({len(names):,} in all)" if len(names) > 12 else shown


def first_row(mask: pa.ChunkedArray) -> int | None:
    """Return the 1-based row of the first true value of a mask; None if there is none."""
    index = pc.index(mask, pa.scalar(True)).as_py()
    return None if index < 0 else index + 1


def _refuse_first(mask: pa.ChunkedArray, message: str) -> None:
    if row := first_row(mask):
        raise DataError(message.replace("{row}", f"row {row}"))


def check_column(names: Sequence[str], column: str, where: str) -> None:
    """Refuse rows without a column; `where` begins the error message."""
    if column not in names:
        near = [name for name in names if name[:-1] != column[:-1]]  # text_a is not meant by text_b
        is_whole_header = len(names) == 1 and column in names[0]
        remedy = "; it is one column with all names: set format.separator to the character between them"
        raise DataError(
            f"{where}: there is no column {column!r}{suggestion(column, near)}; the columns are {listed(names)}"
            f"{remedy if is_whole_header else ''}"
        )


def _column(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    check_column(rows.column_names, column, where)
    values = rows.with_format("arrow")[column][:]
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def is_text(feature: object) -> bool:
    """Return whether a column with this feature holds text."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string", "string_view")


def _refuse_other_types(rows: Dataset, column: str, where: str) -> None:
    if is_text(rows.features[column]) or rows.features[column] == datasets.Value("null"):
        return
    for number, value in enumerate(rows[column], start=1):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{where}: row {number}: column {column!r} holds {_kind_of(value)}, not text; name the column of text"
            )


# The kind of task that labels of each type suggest.
_OTHER_KINDS = {
    list: " (a tag for each word is task.problem: token_classification, any number of labels multi_label)",
    float: " (values are task.problem: regression)",
    dict: " (answers as in SQuAD are task.problem: question_answering)",
}


def _label_names(rows: Dataset, column: str, where: str) -> list[str | None]:
    names: list[str | None] = []
    for number, value in enumerate(rows[column], start=1):
        if value is not None and not isinstance(value, str | int):
            raise DataError(
                f"{where}: row {number}: label {column!r} is {_kind_of(value)}; a label is text, a whole number or a "
                f"truth value{_OTHER_KINDS.get(type(value), '')}"
            )
        names.append(str(value).lower() if isinstance(value, bool) else None if value is None else str(value))
    return names


def _kind_of(value: object) -> str:
    kinds = {"dict": "an object", "list": "a list", "float": f"the number {value}", "int": f"the number {value}"}
    return kinds.get(type(value).__name__, f"a {type(value).__name__} ({value})")
