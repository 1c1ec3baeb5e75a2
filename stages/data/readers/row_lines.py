"""Line numbers of rows for error messages, looked up only once something is wrong."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from schemas.core.errors import DataError
from stages.data.files.file_names import FORMATS, file_format
from stages.data.files.read_request import Reading
from stages.data.files.transcoding import open_utf8
from stages.data.formats.conll import conll_line
from stages.data.formats.csv_rows import SEPARATORS, csv_line
from stages.data.readers.files import is_conll


def with_line(message: str, where: str, path: Path, reading: Reading) -> str:
    """Add the line in which a row begins to a message about the row, unless both have the same number.

    Args:
        message: begins with `where` and the row if it is about one.
        where: the file's field and path.
        path: the file.
        reading: the request that it was read by.
    """
    match = re.match(rf"{re.escape(where)}: row (\d+)(?=:)", message)
    if match is None:
        return message
    try:
        line = _line_of(path, int(match[1]), reading, where.removesuffix(f": {path}"))
    except (DataError, OSError, ValueError):  # the error about the row is the one to report
        line = None
    if line is None or line == int(match[1]):
        return message
    return f"{message[: match.end()]} (line {line}){message[match.end() :]}"


def _line_of(path: Path, row: int, reading: Reading, where: str) -> int | None:
    """Return the line in which a row, counted from 1, begins; None if a file's rows have no lines."""
    suffix = file_format(path, where)
    if is_conll(path, reading, where):
        return conll_line(path, reading, where, row)
    if FORMATS[suffix] == "csv":
        return csv_line(path, reading, SEPARATORS[suffix], where, row)
    if FORMATS[suffix] == "json":
        return _json_line(path, row, reading)
    return None


def _json_line(path: Path, row: int, reading: Reading) -> int | None:
    with open_utf8(path, reading.format.encoding) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(codecs.BOM_UTF8).strip()
            if number == 1 and line.startswith(b"["):
                return None
            row -= bool(line)
            if row == 0:
                return number
    return None
