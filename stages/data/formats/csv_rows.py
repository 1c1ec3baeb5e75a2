"""Rows of comma- or tab-separated files, read strictly: every field as it is written, or the line that is wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.read_request import ArrowRows, Reading, renamed, renaming_remark
from stages.data.files.transcoding import open_text
from stages.data.formats.csv_dialect import Dialect, Opener, find_dialect, refuse_rows_without_header, show_escaped
from stages.data.formats.csv_open_quotes import MOST_LINES, SwallowedRows

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Separator that a file's ending suggests."""
_ROWS_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 1 << 20
_ROWS_TO_LEARN_FROM = 50_000
_FIRST_RECORDS = 200
_BLANK_BEFORE_QUOTE = r'^ +"'


def write_csv_rows(path: Path, reading: Reading, separator: str, where: str, into: Path) -> list[str]:
    """Write the rows of a CSV or TSV file, all columns as text, to an Arrow file that `datasets` opens.

    Args:
        path: the file, compressed or not.
        reading: the request.
        separator: the one that the file's name suggests.
        where: the field that names the file.
        into: the Arrow file; not created if the file has no rows.

    Returns:
        Remarks about choices made in reading.

    Raises:
        DataError: a line is wrong; with its number and that of the row.
    """
    file = _CsvFile(path, reading, separator, where)
    try:
        return file.remarks + file.table.write(file.opened, file.dialect, into)
    except _BlankBeforeQuote:
        file.use(replace(file.dialect, blanks=True))
        return [*file.remarks, *file.table.write(file.opened, file.dialect, into), "blanks before fields are dropped"]


def csv_header(path: Path, reading: Reading, separator: str, where: str) -> list[str]:
    """Return the column names of a CSV or TSV file, wanted ones as they are wanted.

    Raises:
        DataError: the header is wrong.
    """
    return [name for name in _CsvFile(path, reading, separator, where).table.names if name is not None]


def csv_line(path: Path, reading: Reading, separator: str, where: str, row: int) -> int | None:
    """Return the line in which a row begins, rows counted as `write_csv_rows` counts them; None if there is none.

    Raises:
        DataError: the header is wrong.
        ValueError: a line is wrong.
    """
    file = _CsvFile(path, reading, separator, where)
    left = row + file.table.has_header
    with closing(file.opened()) as lines:
        reader = file.dialect.reader(lines)
        end = 0
        try:
            for fields in reader:
                left -= len(fields) == 1 or any(fields)
                if not left:
                    return end + 1 + file.dialect.skip
                end = reader.line_num
        except csv.Error as error:
            raise ValueError(str(error)) from None
    return None


class _CsvFile:
    """A file with its dialect and its columns.

    Raises:
        DataError: the header is wrong.
    """

    def __init__(self, path: Path, reading: Reading, separator: str, where: str) -> None:
        self.reading, self.shown = reading, f"{where}: {path}"
        # Line ends stay as they are, since fields may hold them.
        self.opened: Opener = partial(open_text, path, reading.format.encoding, newline="")
        dialect, self.remarks = find_dialect(self.opened, reading, separator, self.shown)
        self.use(dialect)

    def use(self, dialect: Dialect) -> None:
        """Read the columns in another dialect."""
        self.dialect = dialect
        self.table = _Table.of(dialect, self.opened, self.reading, self.shown)


class _BlankBeforeQuote(Exception):
    """Raised for fields that begin with blanks and a quote, which encloses them only if the blanks are dropped."""


@dataclass
class _Table:
    """The columns of a file."""

    names: list[str | None]
    """Of each column; None for a column without a name."""
    has_header: bool
    shown: str
    remarks: list[str] = field(default_factory=list)

    @staticmethod
    def of(dialect: Dialect, opened: Opener, reading: Reading, shown: str) -> _Table:
        """Derive the columns from the first lines.

        Raises:
            DataError: the header is wrong.
        """
        records = dialect.first(opened, _FIRST_RECORDS)
        if not records:
            _refuse_unreadable_header(dialect, opened, shown)
        header, rows = records[0], records[1:]
        columns = reading.format.columns
        if columns is None:
            refuse_rows_without_header(records, reading, shown)
            return _Table._from_header(header, rows, reading, shown)
        if len(header) != len(columns):
            raise DataError(
                f"{shown}: line 1 has {len(header)} fields, but format.columns names {len(columns)}; name each field "
                "once"
            )
        as_named = renamed(header, columns)
        return _Table([*columns], [*columns] == [as_named.get(name, name) for name in header], shown)

    @staticmethod
    def _from_header(header: list[str], rows: list[list[str]], reading: Reading, shown: str) -> _Table:
        header = [name.strip("\ufeff") for name in header]
        # R does not name the column of row names, and some writers end each row with a separator.
        if rows and all(len(row) == len(header) + 1 for row in rows):
            if all(row[0].isdecimal() for row in rows):
                header = ["", *header]
            elif not any(row[-1] for row in rows):
                header = [*header, ""]
        as_wanted = renamed(header, reading.columns)
        names = [as_wanted.get(name, name) if name.strip() else None for name in header]
        present = [name for name in names if name is not None]
        if len(set(present)) != len(present) or not present:
            twice = next((name for name in present if present.count(name) > 1), "")
            raise DataError(
                f"{shown}: line 1 must name each column once; it is {printable(', '.join(header), 200)}"
                + (f", with {printable(twice, 60)!r} twice" if twice else "")
            )
        return _Table([*names], True, shown, [renaming_remark(as_wanted)] if as_wanted else [])

    def write(self, opened: Opener, dialect: Dialect, into: Path) -> list[str]:
        """Write all rows; return remarks about them."""
        kept = [column for column, name in enumerate(self.names) if name is not None]
        nameless = [_Nameless(column, self.shown) for column, name in enumerate(self.names) if name is None]
        features = {name: datasets.Value("string") for name in self.names if name is not None}
        is_doubtful = dialect.quotes and not dialect.trusted
        swallowed = SwallowedRows(dialect.separator, len(self.names)) if is_doubtful else None
        with closing(opened()) as lines, ArrowRows(into, features) as rows:
            records = _Records(self, dialect, lines, swallowed)
            for batch in records.batches():
                columns = [pa.array(values, pa.string()) for values in batch]
                if dialect.escapes:
                    columns = [show_escaped(column) for column in columns]
                if dialect.quotes and not dialect.blanks:
                    _check_blanks(columns)
                for index in nameless:
                    index.add(columns[index.column], rows.rows)
                rows.write([columns[column] for column in kept])
        if swallowed is not None and (lines_of_field := swallowed.first()):
            raise DataError(
                f"{self.shown}: line {lines_of_field[0]}: a quote opens a field that ends in line {lines_of_field[1]} "
                "and seems to hold whole rows; close the quote, or double it if it is part of the text (format.quotes: "
                "true accepts such fields)"
            )
        remarks = [*self.remarks, *(column.remark() for column in nameless if rows.rows)]
        if records.empty:
            remarks.append(f"{records.empty:,} rows without a value are left out")
        return remarks


def _check_blanks(columns: Sequence[pa.Array]) -> None:
    for column in columns:
        if not pc.any(pc.starts_with(column, " ")).as_py():
            continue
        if pc.any(pc.match_substring_regex(column, _BLANK_BEFORE_QUOTE)).as_py():
            raise _BlankBeforeQuote


@dataclass
class _Nameless:
    """A column without a name, which must be an index or empty."""

    column: int
    shown: str
    is_index: bool = True
    is_empty: bool = True

    def add(self, values: pa.Array, before: int) -> None:
        """Check some rows, of which `before` precede.

        Raises:
            DataError: the column is neither an index nor empty.
        """
        empty = pc.equal(pc.utf8_trim_whitespace(values), "")
        number = pc.match_substring_regex(values, r"^\d+(\.0)?$")
        self.is_empty = self.is_empty and pc.all(empty).as_py()
        self.is_index = self.is_index and self.column == 0 and pc.all(number).as_py()
        if not self.is_empty and not self.is_index:
            odd = pc.index(number if self.column == 0 else empty, pa.scalar(False)).as_py()
            raise DataError(
                f"{self.shown}: line 1 has no name for column {self.column + 1}, which holds "
                f"{printable(values[odd].as_py(), 60)!r} in row {before + odd + 1}; name the column"
            )

    def remark(self) -> str:
        what = "is empty" if self.is_empty else "is an index"
        return f"column {self.column + 1} without a name {what} and is left out"


class _Records:
    """The rows of a file, as lists of equally many fields."""

    def __init__(self, table: _Table, dialect: Dialect, lines: TextIO, swallowed: SwallowedRows | None) -> None:
        self.table, self.dialect, self.swallowed = table, dialect, swallowed
        self.width = len(table.names)
        self.reader = dialect.reader(lines)
        self.row = self.line = self.empty = 0
        """Rows so far, and the line that the last one ended in."""

    def batches(self) -> Iterator[list[tuple[str, ...]]]:
        """Yield the columns of about a thousand rows at a time.

        Raises:
            DataError: a line is wrong.
        """
        batch: list[list[str]] = []
        size, reader, width = 0, self.reader, self.width
        is_header = self.table.has_header
        try:
            for fields in reader:  # a file has millions of rows: each of these lines counts
                end = reader.line_num
                if is_header and fields:
                    is_header = False
                elif len(fields) != width:
                    if fields:  # else a blank line
                        self._refuse_width(fields)
                elif fields[0] or width == 1 or any(fields):
                    if end - self.line > 1:
                        self._check_long_row(fields, end)
                    self.row += 1
                    batch.append(fields)
                    size += sum(map(len, fields))
                    if len(batch) == _ROWS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
                        yield self._columns(batch)
                        batch, size = [], 0
                else:
                    self.empty += 1
                self.line = end
        except csv.Error as error:
            raise self._unreadable(error) from None
        if batch:
            yield self._columns(batch)

    def _columns(self, batch: list[list[str]]) -> list[tuple[str, ...]]:
        columns = list(zip(*batch, strict=True))
        if self.swallowed is not None and self.row <= _ROWS_TO_LEARN_FROM:
            self.swallowed.learn(columns)
        return columns

    def _lines(self, end: int) -> tuple[int, int]:
        """Return the first and the last line of a row that ends in line `end` after the skipped ones."""
        return self.line + 1 + self.dialect.skip, end + self.dialect.skip

    def _location(self, end: int) -> str:
        first, last = self._lines(end)
        lines = f"line {first}" if last == first else f"lines {first} to {last}"
        return f"{self.table.shown}: {lines} (row {self.row + 1})"

    def _refuse_width(self, fields: list[str]) -> None:
        if self.dialect.quotes and not self.dialect.blanks:
            _check_blanks([pa.array(fields, pa.string())])
        end = self.reader.line_num
        remedy = "correct the line"
        if end - self.line > 1:
            remedy = "look for a quote that is not closed in its first line"
        elif len(fields) > self.width:
            remedy = f"put double quotes around a text that holds {self.dialect.separator!r}"
        source = "line 1" if self.table.has_header else "format.columns"
        raise DataError(
            f"{self._location(end)} has {counted(len(fields), 'field')} but {source} names "
            f"{counted(self.width, 'column')}; {remedy}"
        )

    def _check_long_row(self, fields: list[str], end: int) -> None:
        """Look for an open quote in a row of several lines."""
        if self.dialect.trusted:
            return
        if self.swallowed is not None:
            self.swallowed.suspect(fields, *self._lines(end))
        for text in fields:
            if text.count("\n") + text.count("\r") > MOST_LINES and len(text.splitlines()) > MOST_LINES:
                raise DataError(
                    f"{self._location(end)}: a field spans more than {MOST_LINES:,} lines; close the quote that opens "
                    "it, or give such long texts as .jsonl or .parquet"
                )

    def _unreadable(self, error: csv.Error) -> DataError:
        causes = {
            "unexpected end": "a quote that opens a field is never closed; close it",
            "expected after": "text follows a quote that closes a field; double the quotes inside a quoted text",
            "field larger": "a field is too long; look for a quote that is never closed, and split longer texts into "
            "several rows",
        }
        other = f"cannot be read ({printable(str(error), 100)}); correct the line"
        cause = next((cause for sign, cause in causes.items() if sign in str(error)), other)
        return DataError(f"{self._location(self.reader.line_num)}: {cause}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 field` or `2 fields`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _refuse_unreadable_header(dialect: Dialect, opened: Opener, shown: str) -> None:
    with closing(opened()) as lines:
        for _ in _Records(_Table([""], False, shown), dialect, lines, None).batches():
            break
    raise DataError(f"{shown}: line 1 names no column; put a line of column names first")
