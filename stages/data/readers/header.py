"""Columns of a file, found without reading its rows."""

from __future__ import annotations

import codecs
import functools
import itertools
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq

from schemas.core.errors import DataError
from stages.data.files.file_names import FORMATS, file_format
from stages.data.files.limits import check_bounds
from stages.data.files.read_request import Reading
from stages.data.files.transcoding import open_utf8
from stages.data.formats.csv_rows import SEPARATORS, csv_header


def has_column(path: Path, column: str, where: str, reading: Reading) -> bool:
    """Return whether any row of `path` has `column`; `where` is the file's field.

    Also False if the rows cannot be read: the reader of the rows reports what is wrong with them.

    Raises:
        DataError: the file's name has no known format, or the file is out of bounds.
    """
    status = path.stat()
    suffix = file_format(path, where)
    check_bounds(path, suffix, where, reading.format.encoding)
    return _has_column(str(path), suffix, column, reading, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _has_column(name: str, suffix: str, column: str, reading: Reading, _size: int, _mtime_ns: int) -> bool:
    path = Path(name)
    try:
        if suffix == ".parquet":
            return column in pq.read_schema(path).names
        if FORMATS.get(suffix) == "csv":
            request = replace(reading, columns=(*reading.columns, column))
            return column in csv_header(path, request, SEPARATORS[suffix], "")
        with open_utf8(path, reading.format.encoding) as file:
            return FORMATS.get(suffix) == "json" and _in_json(file, column)
    except (DataError, OSError, EOFError, TypeError, ValueError, RecursionError, zlib.error):
        return False


def _in_json(file: IO[bytes], column: str) -> bool:
    lines = itertools.chain([file.readline().removeprefix(codecs.BOM_UTF8)], file)
    first = next(lines)
    if first.lstrip()[:1] == b"[":
        return any(column in row for row in json.loads(b"".join([first, *lines])))
    # Most lines need no parsing: a line without the key's name does not have the key.
    mention = json.dumps(column, ensure_ascii=False).encode("utf-8")
    return any(mention in line and column in json.loads(line) for line in itertools.chain([first], lines))
