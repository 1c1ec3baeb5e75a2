"""Rows of a stream: a text a line, or JSON lines; read as they come, so that each line is answered soon after it."""

from __future__ import annotations

import codecs
import io
import json
import os
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from schemas.core.errors import DataError
from schemas.core.wording import printable
from schemas.results.export import TaskForm
from stages.data.files.transcoding import as_utf8, other_kind
from stages.predictions.rows import Columns, Row, choose_columns, needed_texts

NAME = "standard input"
_MOST_LINES, _MOST_BYTES = 1000, 1 << 20
"""Largest chunk."""
_LONGEST_LINE = 2 << 20
_AT_ONCE = 1 << 18
_WAIT_SECONDS = 0.02
"""Pause in the stream after which its lines are answered."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class Stream:
    """Rows of a file descriptor."""

    handle: int
    form: TaskForm
    encoding: str | None = None
    """Encoding of the text; None for UTF-8, or the encoding of its byte order mark."""
    given: Sequence[str] = ()
    """`--text-columns`."""
    kept: Sequence[str] = ()
    """`--keep`."""
    columns: Columns | None = field(default=None, init=False)
    """Columns of JSON lines; None before the first, and for lines of text."""
    is_json: bool | None = field(default=None, init=False)
    """True for JSON lines; None before the first line that is not blank."""
    number: int = field(default=0, init=False)
    """Lines so far."""

    def chunks(self) -> Iterator[list[Row]]:
        """Yield the rows as they come, some at a time.

        Raises:
            DataError: a line cannot be read; the rows before it were yielded.
        """
        blank: list[Row] = []
        for lines in _lines(self.handle, self.encoding):
            rows: list[Row] = []
            try:
                for line in lines:
                    self.number += 1
                    text = _decoded(line, self.number)
                    if self.is_json is None and not text.strip():
                        blank.append(Row(self.number, text))  # a row in lines of text
                    elif (row := self._row(text)) is not None:
                        rows += [*([] if self.is_json else blank), row]
                        blank = []
            except DataError:
                if rows:
                    yield rows
                raise
            if rows:
                yield rows
        if blank:
            yield blank

    def _row(self, text: str) -> Row | None:
        """Return the row of a line; None for a blank one between JSON lines."""
        if self.is_json is None:
            self.is_json = _begins_json(text)
            self._check(self.is_json)
        if not self.is_json:
            return Row(self.number, text)
        if not text.strip():
            return None
        where = f"{NAME}: line {self.number}"
        values = _object(text, self.number)
        if self.columns is None:
            self.columns = choose_columns(self.form, [*values], where, given=self.given, kept=self.kept)
        return self.columns.row(values, self.number, where)

    def _check(self, is_json: bool) -> None:
        """Refuse lines of text where a row has more than a text."""
        if not is_json and (self.form.has_pair or self.form.problem.kind == "multiple_choice"):
            raise DataError(
                f"{NAME}: rows of this task have {needed_texts(self.form)}: give each as a JSON object on a line, or "
                "the rows of a file with --file"
            )
        if not is_json and (self.given or self.kept):
            raise DataError(f"{NAME} is lines of text, without columns: leave out --text-columns and --keep")


def _lines(handle: int, encoding: str | None) -> Iterator[list[bytes]]:
    """Yield lines in UTF-8, without their ends, as soon as the stream pauses or a chunk is full.

    Raises:
        DataError: the stream is no text, or a line is too long; the lines before it were yielded.
    """
    raw = io.FileIO(handle, closefd=False)
    stream, begin = _opened(raw, encoding)
    waiting: list[bytes] = []
    size, rest, ended = 0, begin, False
    failure: DataError | None = None
    count = 0
    while not ended and failure is None:
        *lines, rest = rest.split(b"\n")
        waiting += lines
        size += sum(map(len, lines))
        count += len(lines)
        if len(rest) > _LONGEST_LINE:
            failure = _too_long(count + 1)
            break
        while waiting and (len(waiting) >= _MOST_LINES or size >= _MOST_BYTES or not _is_ready(handle)):
            part = _first(waiting)
            waiting = waiting[len(part) :]
            size -= sum(map(len, part))
            yield part
        try:
            chunk = stream.read1(_AT_ONCE)  # type: ignore[attr-defined]
        except UnicodeDecodeError as error:
            failure = DataError(
                f"{NAME}: line {count + 1} or one after it is not {error.encoding} ({error.reason}); give its encoding "
                "with --encoding"
            )
        else:
            rest, ended = rest + chunk, not chunk
    if rest and failure is None:
        waiting.append(rest)
    while waiting:
        part = _first(waiting)
        waiting = waiting[len(part) :]
        yield part
    if failure is not None:
        raise failure


def _first(lines: list[bytes]) -> list[bytes]:
    """Return the first lines that fit into a chunk, at least one."""
    size = 0
    for index, line in enumerate(lines[:_MOST_LINES]):
        size += len(line)
        if size > _MOST_BYTES and index:
            return lines[:index]
    return lines[:_MOST_LINES]


def _is_ready(handle: int) -> bool:
    """Return whether the stream has more within a moment; at its end it has."""
    return bool(select.select([handle], [], [], _WAIT_SECONDS)[0])


def _opened(raw: io.FileIO, encoding: str | None) -> tuple[IO[bytes], bytes]:
    """Return the stream in UTF-8, and what was read of it to recognise its kind.

    Raises:
        DataError: it is no text.
    """
    begin = raw.read(_AT_ONCE) or b""
    while begin and len(begin) < 4 and any(mark.startswith(begin) for mark, _ in _MARKS):
        if not (more := raw.read(_AT_ONCE)):
            break
        begin += more
    if (kind := other_kind(begin)) is not None:
        what = kind.partition(";")[0].removesuffix(" with another ending")
        raise DataError(f"{NAME} is {what}, not lines of text; give a file with --file, or unpack it: zcat FILE | …")
    mark, named = next(((mark, name) for mark, name in _MARKS if begin.startswith(mark)), (b"", "utf-8"))
    chosen = encoding or named
    if chosen == "utf-8":
        return io.BufferedReader(raw), begin.removeprefix(mark)
    return as_utf8(_Pushed(raw, begin), chosen), b""


class _Pushed(io.BytesIO):
    """A stream whose first bytes were read already."""

    def __init__(self, raw: io.FileIO, begin: bytes) -> None:
        super().__init__(begin)
        self.raw = raw

    def read(self, size: int | None = -1) -> bytes:
        """Return what there is, at most `size` bytes."""
        return super().read(size) or self.raw.read(-1 if size is None else size) or b""


def _decoded(line: bytes, number: int) -> str:
    if b"\0" in line:
        raise DataError(f"{NAME}: line {number} holds a NUL byte; give text, or its encoding with --encoding")
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{NAME}: line {number} is not UTF-8; give its encoding, such as --encoding cp1252") from None


def _begins_json(text: str) -> bool:
    """Return whether a stream is JSON lines, by its first line."""
    begin = text.lstrip()
    if begin.startswith("[{"):
        raise DataError(f"{NAME} is one JSON array; write each row on a line: jq -c '.[]' FILE | …")
    return begin.startswith(('{"', "{'")) or (begin.startswith("{") and _parsed(begin) is not None)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _object(text: str, number: int) -> dict[str, Any]:
    values = _parsed(text)
    if values is None:
        raise DataError(
            f"{NAME}: line {number} is no JSON object: {printable(text, 80)}; write one object on each line, such as "
            '{"text": "…"}'
        )
    if "\\ud" in text.lower() and not is_unicode(values):
        raise DataError(f"{NAME}: line {number} holds half of a surrogate pair (\\ud…); write the text in UTF-8")
    return values


def is_unicode(value: Any) -> bool:
    """Return whether all texts of a JSON value can be written in UTF-8, which halves of surrogate pairs cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_waiting(handle: int) -> bool:
    """Return whether something is piped into a stream: it is neither a terminal nor closed."""
    try:
        os.fstat(handle)
    except OSError:
        return False
    return not os.isatty(handle)


def _too_long(number: int) -> DataError:
    return DataError(f"{NAME}: line {number} is longer than {_LONGEST_LINE >> 20} MB; a line is one text: split it")
