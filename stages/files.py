"""Rows of a user's files, and for whatever is wrong with them file, row and remedy.

`datasets` reads and caches the files; this module finds them, checks them and explains what
`datasets` would not take.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import constants

from schemas.base import digest_of
from schemas.errors import DataError
from schemas.paths import local_path
from schemas.regular_files import check_regular, special_kind
from schemas.yaml_text import printable
from stages.bounds import CHUNK_BYTES, MAX_COLUMNS, MAX_ROW_BYTES, check_bounds
from stages.packing import open_plain, packing_of, without_packing
from stages.parquet import columns_among, write_parquet_rows
from stages.whole import disk_error, file_digest, is_whole, make_whole

FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
MAX_LABEL = 1000
READING_VERSION = 1
"""Raise when the same file should give other rows or remarks."""
_REMARKS = "remarks.json"


@dataclass(frozen=True)
class FileRows:
    """The rows of a file, and how the file was read."""

    rows: Dataset
    remarks: tuple[str, ...] = ()
    """A sentence for each thing that could have been read in another way, with the file's name."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps `datasets` from drawing progress bars and logging while it reads."""
    shown, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Keeps `datasets` from asking the hub anything, unless not `wanted`."""
    # For local files it reports a download; for an unreachable hub it waits half a minute before it
    # looks into its cache.
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if wanted:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def resolve_file(pattern: str, where: str) -> Path:
    """The one file that `pattern` (a path, with `*` or `~` perhaps) means; `where` is its field."""
    path = local_path(pattern, where)
    if path.is_dir():
        raise DataError(f"{where}: {path} is a folder; give a file in it{_listing(path)}")
    if not path.exists():
        # Only the last part is a pattern where the folder exists: its name may hold a bracket.
        given = (
            os.path.join(glob.escape(str(path.parent)), path.name) if path.parent.is_dir() else path
        )
        found = sorted(
            name
            for name in glob.glob(str(given))
            if os.path.isfile(name) or special_kind(Path(name))
        )
        if not found:
            raise DataError(f"{where}: there is no file {path}{_listing(path.parent)}")
        if len(found) > 1:
            raise DataError(
                f"{where}: {path} means {len(found)} files, {', '.join(found)}; name the one to use"
            )
        path = Path(found[0])
    check_regular(path, where)
    file_format(path, where)
    if not os.access(path, os.R_OK):
        raise DataError(f"{where}: {path} may not be read; change its permissions")
    return path


def file_format(path: Path, where: str) -> str:
    """What `path` is by its name: `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.txt`."""
    suffix = Path(without_packing(path.name)).suffix.lower()
    if suffix not in FORMATS or (suffix == ".parquet" and packing_of(path.name)):
        raise DataError(
            f"{where}: {path} is of no known format; give .jsonl, .json, .csv, .tsv or .txt "
            "(plain, .gz, .bz2, .xz or .zst) or .parquet"
        )
    return suffix


def file_identity(path: Path, where: str) -> dict[str, str]:
    """What decides the rows of a file: its content and how it is read."""
    return {"format": file_format(path, where), "sha256": file_digest(path)}


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f" (there is no folder {folder} either; relative paths start at {Path.cwd()})"
    names = sorted(entry.name for entry in folder.iterdir())
    return (
        f"; {folder} holds {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
        if names
        else "; it is empty"
    )


def read_file(
    path: Path, cache: Path, where: str, columns: Collection[str] | None = None
) -> FileRows:
    """The rows of `path` with all its columns, memory-mapped from `cache`; never empty.

    CSV and TSV columns are all text, so that `NA` and `01` stay what they are; TSV is read without
    quoting.

    Args:
        path: the file.
        cache: folder for what is read once.
        where: the field that names it.
        columns: names among which the wanted columns are; the others of a Parquet file are then nulls. None for all.

    Raises:
        DataError: the file cannot be read, and why, with the line where there is one.
        OSError: the cache cannot be written.
    """
    suffix = file_format(path, where)
    check_bounds(path, suffix, where)
    # By content: a file that is replaced under the same name and time has other rows.
    named: dict[str, object] = {
        "sha256": file_digest(path),
        "format": suffix,
        "datasets": datasets.__version__,
        "version": READING_VERSION,
    }
    if suffix == ".parquet":
        named["columns"] = columns = None if columns is None else columns_among(path, columns)
    folder = cache / "files" / digest_of(named)[:32]
    if not is_whole(folder):
        make_whole(folder, lambda beside: _prepare(path, suffix, where, columns, beside))
    parts = sorted(folder.glob("*.arrow"))
    if not parts:
        raise DataError(f"{where}: {path} has no rows; give a file that has some")
    rows = datasets.concatenate_datasets([Dataset.from_file(str(part)) for part in parts])
    remarks = json.loads((folder / _REMARKS).read_text(encoding="utf-8"))
    return FileRows(rows, tuple(f"{where}: {path}: {remark}" for remark in remarks))


def _prepare(
    path: Path, suffix: str, where: str, columns: Collection[str] | None, into: Path
) -> None:
    """The rows of `path` as Arrow files in `into`, none where it has none; and how the file was read.

    The remarks do not name the file: the same content under another name is not read again.
    """
    remarks: list[str] = []
    if suffix == ".parquet":
        (into / _REMARKS).write_text(json.dumps(remarks), encoding="utf-8")
        rows_file = into / "0000.arrow"
        if not write_parquet_rows(path, where, columns, rows_file):
            rows_file.unlink()
        return
    options = _csv_options(path, suffix, where) if FORMATS[suffix] == "csv" else {}
    plain = path
    if packing_of(path.name):
        plain = into / f"plain{suffix}"
        with open_plain(path) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK_BYTES)
    try:
        with quiet(), offline():
            rows = datasets.load_dataset(
                FORMATS[suffix], data_files=[glob.escape(str(plain.absolute()))], split="train",
                cache_dir=str(into / "prepared"), **options,
            )  # fmt: skip
    except Exception as error:
        if (refused := disk_error(error)) is not None:
            raise refused from None
        # datasets lets through whatever its readers raise; each means that the file is not right.
        raise DataError(f"{where}: {path}: {_reason(path, suffix, error)}") from None
    if len(rows):
        for number, made in enumerate(rows.cache_files):
            os.replace(made["filename"], into / f"{number:04d}.arrow")
    (into / _REMARKS).write_text(json.dumps(remarks), encoding="utf-8")
    del rows
    shutil.rmtree(into / "prepared")
    if plain != path:
        plain.unlink()


def _reason(path: Path, suffix: str, error: Exception) -> str:
    if FORMATS[suffix] == "json" and (problem := _json_problem(path)):
        return problem
    cause = printable(" ".join(str(error.__cause__ or error).split()), 300)
    # What datasets says of a file with a header or a schema and nothing else.
    if "corresponds to no data" in cause:
        return "has no rows; give a file that has some"
    return f"cannot be read as {suffix} ({cause}); mend it"


def _csv_options(path: Path, suffix: str, where: str) -> dict[str, Any]:
    separator = "\t" if suffix == ".tsv" else ","
    # Quotes are ordinary characters in the TSV files of GLUE; read as quotes they swallow rows.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL
    with io.TextIOWrapper(open_plain(path), encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter=separator, quoting=quoting)
        try:
            header, first = next(rows), next(rows, None)
        except csv.Error as error:
            raise DataError(
                f"{where}: {path}: line {rows.line_num} cannot be read ({error}); look for a quote that is never "
                "closed, and cut longer fields"
            ) from None
    if len(header) > MAX_COLUMNS:
        raise DataError(
            f"{where}: {path}: line 1 names {len(header):,} columns; give a file of at most {MAX_COLUMNS:,}"
        )
    if len(set(header)) != len(header) or "" in header:
        raise DataError(
            f"{where}: {path}: line 1 must name each column once; it is {listed(header)}"
        )
    if first is not None and len(first) != len(header):
        raise DataError(
            f"{where}: {path}: row 1 has {len(first)} fields but line 1 names {len(header)} columns; mend it"
        )
    features = datasets.Features({name: datasets.Value("string") for name in header})
    return {
        "sep": separator,
        "quoting": quoting,
        "encoding": "utf-8-sig",
        "features": features,
        "index_col": False,
        "keep_default_na": False,
        "na_filter": False,
    }


def _json_problem(path: Path) -> str | None:
    with open_plain(path) as file:
        if file.read(1) == b"[":
            file.seek(0)
            return _problem_of(file.read(), first_line=1)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip() and (problem := _problem_of(line.strip(), first_line=number)):
                return problem
    return None


def _problem_of(text: bytes, first_line: int) -> str | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return (
            f"line {first_line + error.lineno - 1} is not valid JSON ({error.msg}); mend that line"
        )
    except RecursionError:
        return f"line {first_line} is nested too deeply; a row is one object of texts and numbers"
    if isinstance(value, dict | list):
        return None
    example = '{"text": "…", "label": "…"}'
    return f"line {first_line} is no JSON object; write a row a line, such as {example}"


def text_column(
    rows: Dataset, column: str, where: str, *, blank_allowed: bool = False
) -> pa.ChunkedArray:
    """Column `column` of `rows` as strings, none null, and none blank unless `blank_allowed`."""
    values = _column(rows, column, where)
    if not pa.types.is_string(values.type) or not is_text(rows.features[column]):
        _refuse_other_types(rows, column, where)
        values = values.cast(pa.string())
    _refuse_first(
        pc.is_null(values),
        f"{where}: {{row}}: column {column!r} is missing or null; give text or drop it",
    )
    if not blank_allowed:
        blank = pc.equal(pc.utf8_trim_whitespace(values), "")
        _refuse_first(
            blank, f"{where}: {{row}}: column {column!r} is empty; give text or drop the row"
        )
    _refuse_first(
        pc.greater(pc.binary_length(values), MAX_ROW_BYTES),
        f"{where}: {{row}}: column {column!r} holds more than {MAX_ROW_BYTES >> 20} MB; a row is one text: cut it into "
        "several rows",
    )
    return values


def label_column(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    """Labels of `rows` as names; whole numbers and truth values as they are written."""
    values = _column(rows, column, where)
    feature = rows.features[column]
    missing = f"{where}: {{row}}: label {column!r} is missing; give the row a label or drop it"
    if isinstance(feature, datasets.ClassLabel):
        hidden = pc.fill_null(pc.less(values, 0), True)
        _refuse_first(
            hidden, f"{missing} (test splits hide their labels as -1; take another split)"
        )
        return pc.take(pa.array(feature.names, pa.string()), values)
    if (
        not is_text(feature)
        and not pa.types.is_integer(values.type)
        and not pa.types.is_boolean(values.type)
    ):
        values = pa.chunked_array([pa.array(_label_names(rows, column, where), pa.string())])
    names = values.cast(pa.string())
    _refuse_first(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(names), ""), True), missing)
    _refuse_first(
        pc.greater(pc.utf8_length(names), MAX_LABEL),
        f"{where}: {{row}}: label {column!r} is longer than {MAX_LABEL:,} characters; name the column of the labels",
    )
    return names


def listed(names: Sequence[str]) -> str:
    """Some of the names, each shortened, where there are many."""
    shown = ", ".join(printable(name, 60) for name in names[:12])
    return f"{shown}, … ({len(names):,} in all)" if len(names) > 12 else shown


def first_row(mask: pa.ChunkedArray) -> int | None:
    """The 1-based row of the first true value of `mask`; None when there is none."""
    place = pc.index(mask, pa.scalar(True)).as_py()
    return None if place < 0 else place + 1


def _refuse_first(mask: pa.ChunkedArray, message: str) -> None:
    if row := first_row(mask):
        raise DataError(message.replace("{row}", f"row {row}"))


def check_column(names: Sequence[str], column: str, where: str) -> None:
    """Refuse rows that have no such column; `where` is how messages name them."""
    if column not in names:
        raise DataError(f"{where}: there is no column {column!r}; the columns are {listed(names)}")


def _column(rows: Dataset, column: str, where: str) -> pa.ChunkedArray:
    check_column(rows.column_names, column, where)
    values = rows.with_format("arrow")[column][:]
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def is_text(feature: object) -> bool:
    """Whether a column of this kind holds text."""
    return isinstance(feature, datasets.Value) and feature.dtype in (
        "string",
        "large_string",
        "string_view",
    )


def _refuse_other_types(rows: Dataset, column: str, where: str) -> None:
    if is_text(rows.features[column]) or rows.features[column] == datasets.Value("null"):
        return
    for number, value in enumerate(rows[column], start=1):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{where}: row {number}: column {column!r} holds {_kind_of(value)}, not text; "
                "name the text's column"
            )


# What a task whose labels look like this is, if it is not one of classes.
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
        names.append(
            str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
        )
    return names


def _kind_of(value: object) -> str:
    kinds = {
        "dict": "an object",
        "list": "a list",
        "float": f"the number {value}",
        "int": f"the number {value}",
    }
    return kinds.get(type(value).__name__, f"a {type(value).__name__} ({value})")
