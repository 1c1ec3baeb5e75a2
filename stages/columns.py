"""Which columns a file has, found without reading its rows."""

from __future__ import annotations

import codecs
import csv
import functools
import gzip
import json
import zlib
from pathlib import Path
from typing import IO, cast

import pyarrow.parquet as pq

from stages.files import FORMATS, file_format


def has_column(path: Path, column: str, where: str) -> bool:
    """Whether any row of `path` has `column`; `where` is the file's field.

    False too for a file that cannot be read: what is wrong with it is said where its rows are read.

    Raises:
        DataError: its name says no known format.
    """
    status = path.stat()
    suffix = file_format(path, where)
    return _found(str(path), suffix, column, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _found(name: str, suffix: str, column: str, _size: int, _mtime_ns: int) -> bool:
    path = Path(name)
    try:
        if suffix == ".parquet":
            return column in pq.read_schema(path).names
        with _open(path) as file:
            if FORMATS[suffix] == "csv":
                header = codecs.getreader("utf-8-sig")(file).readline()
                return column in next(
                    csv.reader([header], delimiter="\t" if suffix == ".tsv" else ","), []
                )
            return FORMATS[suffix] == "json" and _in_json(file, column)
    except (OSError, EOFError, TypeError, ValueError, RecursionError, zlib.error, csv.Error):
        return False


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.name.endswith(".gz") else path.open("rb")


def _in_json(file: IO[bytes], column: str) -> bool:
    if file.read(1) == b"[":
        file.seek(0)
        return any(column in row for row in json.load(file))
    file.seek(0)
    # Most lines need no parsing: a key that a line does not mention is not in it.
    mention = json.dumps(column, ensure_ascii=False).encode("utf-8")
    return any(mention in line and column in json.loads(line) for line in file)
