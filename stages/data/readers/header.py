"""Which columns a file has, found without reading its rows."""

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
from stages.data.files.transcoding import encoding_of, open_utf8
from stages.data.formats.csv_rows import SEPARATORS, csv_header


def has_column(path: Path, column: str, where: str, reading: Reading) -> bool:
    """Whether any row of `path` has `column`; `where` is the file's field.

    False too where its rows cannot be read: what is wrong with them is said where they are read.

    Raises:
        DataError: its name says no known format, or it is out of bounds.
    """
    status = path.stat()
    suffix = file_format(path, where)
    check_bounds(path, suffix, where, reading.format.encoding)
    return _found(str(path), suffix, column, reading, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _found(name: str, suffix: str, column: str, reading: Reading, _size: int, _mtime_ns: int) -> bool:
    path = Path(name)
    try:
        if suffix == ".parquet":
            return column in pq.read_schema(path).names
        if FORMATS.get(suffix) == "csv":
            asked = replace(reading, columns=(*reading.columns, column))
            return column in csv_header(path, asked, SEPARATORS[suffix], "")
        with open_utf8(path, encoding_of(path, reading.format.encoding)) as file:
            return FORMATS.get(suffix) == "json" and _in_json(file, column)
    except (DataError, OSError, EOFError, TypeError, ValueError, RecursionError, zlib.error):
        return False


def _in_json(file: IO[bytes], column: str) -> bool:
    lines = itertools.chain([file.readline().removeprefix(codecs.BOM_UTF8)], file)
    first = next(lines)
    if first.lstrip()[:1] == b"[":
        return any(column in row for row in json.loads(b"".join([first, *lines])))
    # Most lines need no parsing: a key that a line does not mention is not in it.
    mention = json.dumps(column, ensure_ascii=False).encode("utf-8")
    return any(mention in line and column in json.loads(line) for line in itertools.chain([first], lines))
