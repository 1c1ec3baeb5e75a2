"""The line of a file that a row begins in, for messages: looked for once something is wrong, never before."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.core.errors import DataError
from stages.data.files.file_names import FORMATS, file_format
from stages.data.files.read_request import Reading
from stages.data.files.transcoding import encoding_of, open_utf8
from stages.data.formats.conll import conll_line
from stages.data.formats.csv_rows import SEPARATORS, csv_line
from stages.data.readers.files import is_conll

_MARK = b"\xef\xbb\xbf"


def with_line(message: str, where: str, path: Path, reading: Reading) -> str:
    """A message about a row with the line that the row begins in, unless that has the row's number.

    Args:
        message: begins with `where` and the row, where it is about one.
        where: how messages name the file: its field and its path.
        path: the file.
        reading: how it was read.
    """
    found = re.match(rf"{re.escape(where)}: row (\d+)(?=:)", message)
    if found is None:
        return message
    try:
        line = _line_of(path, int(found[1]), reading, where.removesuffix(f": {path}"))
    except (DataError, OSError, ValueError):  # the row itself is what is to be told
        line = None
    if line is None or line == int(found[1]):
        return message
    return f"{message[: found.end()]} (line {line}){message[found.end() :]}"


def _line_of(path: Path, row: int, reading: Reading, where: str) -> int | None:
    """The line in which row `row`, counted from 1, begins; None where a file's rows have no lines."""
    suffix = file_format(path, where)
    if is_conll(path, reading, where):
        return conll_line(path, reading, where, row)
    if FORMATS[suffix] == "csv":
        return csv_line(path, reading, SEPARATORS[suffix], where, row)
    if FORMATS[suffix] == "json":
        return _json_line(path, row, reading)
    return None


def _json_line(path: Path, row: int, reading: Reading) -> int | None:
    with open_utf8(path, encoding_of(path, reading.format.encoding)) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(_MARK).strip()
            if number == 1 and line.startswith(b"["):
                return None
            row -= bool(line)
            if row == 0:
                return number
    return None
