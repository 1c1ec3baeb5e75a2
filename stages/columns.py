"""Which columns a file has, found without reading its rows."""

from __future__ import annotations

import csv
import functools
import io
import json
import zlib
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq

from stages.bounds import check_bounds
from stages.files import FORMATS, file_format
from stages.packing import open_plain


def has_column(path: Path, column: str, where: str) -> bool:
    """Whether any row of `path` has `column`; `where` is the file's field.

    False too where its rows cannot be read: what is wrong with them is said where they are read.

    Raises:
        DataError: its name says no known format, or it is out of bounds.
    """
    status = path.stat()
    suffix = file_format(path, where)
    check_bounds(path, suffix, where)
    return _found(str(path), suffix, column, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _found(name: str, suffix: str, column: str, _size: int, _mtime_ns: int) -> bool:
    path = Path(name)
    try:
        if suffix == ".parquet":
            return column in pq.read_schema(path).names
        if FORMATS[suffix] == "csv":
            with io.TextIOWrapper(open_plain(path), encoding="utf-8-sig", newline="") as lines:
                rows = csv.reader([lines.readline()], delimiter="\t" if suffix == ".tsv" else ",")
            return column in next(rows, [])
        with open_plain(path) as file:
            return FORMATS[suffix] == "json" and _in_json(file, column)
    except (OSError, EOFError, TypeError, ValueError, RecursionError, zlib.error, csv.Error):
        return False


def _in_json(file: IO[bytes], column: str) -> bool:
    if file.read(1) == b"[":
        file.seek(0)
        return any(column in row for row in json.load(file))
    file.seek(0)
    # Most lines need no parsing: a key that a line does not mention is not in it.
    mention = json.dumps(column, ensure_ascii=False).encode("utf-8")
    return any(mention in line and column in json.loads(line) for line in file)
