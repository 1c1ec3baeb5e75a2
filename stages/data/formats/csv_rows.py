"""Rows of comma- and tab-separated files, read strictly: every field as it was written, or the line that is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.read_request import ArrowRows, Reading, renamed, renaming_remark
from stages.data.files.transcoding import encoding_of, open_utf8
from stages.data.formats.csv_dialect import Dialect, Opener, find_dialect, refuse_rows_without_header
from stages.data.formats.csv_escapes import escapes_shown
from stages.data.formats.csv_open_quotes import MOST_LINES, Swallowed

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""What a file's name says of its separator."""
_ROWS_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 1 << 20
_ROWS_TO_LEARN_FROM = 50_000
_PEEK = 200
_BLANK_BEFORE_QUOTE = r'^ +"'


def write_csv_rows(path: Path, reading: Reading, separator: str, where: str, into: Path) -> list[str]:
    """Write the rows of a CSV or TSV file, all columns text, as an Arrow file that `datasets` opens.

    Args:
        path: the file, packed or not.
        reading: what is asked of it.
        separator: what its name says.
        where: the field that names it.
        into: the Arrow file; not there afterwards where the file has no rows.

    Returns:
        What was read in one of several ways.

    Raises:
        DataError: a line is not right; with line and row.
    """
    shown = f"{where}: {path}"
    opened = csv_opener(path, reading)
    dialect, remarks = find_dialect(opened, reading, separator, shown)
    table = _Table.of(dialect, opened, reading, shown)
    try:
        more = table.write(opened, dialect, into)
    except _BlankBeforeQuote:
        dialect = replace(dialect, blanks=True)
        table = _Table.of(dialect, opened, reading, shown)
        more = [*table.write(opened, dialect, into), "blanks before fields are left out"]
    return remarks + more


def csv_header(path: Path, reading: Reading, separator: str, where: str) -> list[str]:
    """The names of a CSV or TSV file's columns, those that are wanted as they are wanted.

    Raises:
        DataError: the header is not right.
    """
    shown = f"{where}: {path}"
    opened = csv_opener(path, reading)
    dialect, _ = find_dialect(opened, reading, separator, shown)
    return [name for name in _Table.of(dialect, opened, reading, shown).names if name is not None]


def csv_line(path: Path, reading: Reading, separator: str, where: str, row: int) -> int | None:
    """The line in which a row begins, counted as `write_csv_rows` counts them; None where there is no such row.

    Raises:
        DataError: the header is not right.
        ValueError: a line is not.
    """
    shown = f"{where}: {path}"
    opened = csv_opener(path, reading)
    dialect, _ = find_dialect(opened, reading, separator, shown)
    left = row + _Table.of(dialect, opened, reading, shown).has_header
    with closing(opened()) as lines:
        reader = dialect.reader(islice(lines, dialect.skip, None))
        end = 0
        try:
            for fields in reader:
                left -= len(fields) == 1 or any(fields)
                if not left:
                    return end + 1 + dialect.skip
                end = reader.line_num
        except csv.Error as error:
            raise ValueError(str(error)) from None
    return None


def csv_opener(path: Path, reading: Reading) -> Opener:
    """Opens a file as text, the ends of its lines as they are."""
    encoding = encoding_of(path, reading.format.encoding)

    def opened() -> TextIO:
        return io.TextIOWrapper(open_utf8(path, encoding), encoding="utf-8-sig", newline="")

    return opened


class _BlankBeforeQuote(Exception):
    """Fields begin with blanks and a quote: the quote encloses them only if the blanks are no part of them."""


@dataclass
class _Table:
    """The columns of a file, and what is found out about them while its rows are read."""

    names: list[str | None]
    """Of each column; None for one without."""
    has_header: bool
    shown: str
    remarks: list[str] = field(default_factory=list)

    @staticmethod
    def of(dialect: Dialect, opened: Opener, reading: Reading, shown: str) -> _Table:
        """The columns that the first lines tell.

        Raises:
            DataError: the header is not right.
        """
        records = dialect.first(opened, _PEEK)
        if not records:
            _first_problem(dialect, opened, shown)
        header, rows = records[0], records[1:]
        given = reading.format.columns
        if given is not None:
            has_header = [*given] == [renamed(header, given).get(name, name) for name in header]
            table = _Table([*given], has_header, shown)
            width = len(header)
            if width != len(given):
                raise DataError(
                    f"{shown}: line 1 has {width} fields, but format.columns names {len(given)}; name each field once"
                )
            return table
        refuse_rows_without_header(records, reading, shown)
        return _Table._named(header, rows, reading, shown)

    @staticmethod
    def _named(header: list[str], rows: list[list[str]], reading: Reading, shown: str) -> _Table:
        header = [name.strip("\ufeff") for name in header]
        # R names no column of row names, and some writers end each row with a separator.
        if rows and all(len(row) == len(header) + 1 for row in rows):
            if all(row[0].isdecimal() for row in rows):
                header = ["", *header]
            elif not any(row[-1] for row in rows):
                header = [*header, ""]
        as_wanted = renamed(header, reading.columns)
        names = [as_wanted.get(name, name) if name.strip() else None for name in header]
        named = [name for name in names if name is not None]
        if len(set(named)) != len(named) or not named:
            twice = next((name for name in named if named.count(name) > 1), "")
            raise DataError(
                f"{shown}: line 1 must name each column once; it is {printable(', '.join(header), 200)}"
                + (f", with {printable(twice, 60)!r} twice" if twice else "")
            )
        table = _Table([*names], True, shown)
        if as_wanted:
            table.remarks.append(renaming_remark(as_wanted))
        return table

    def write(self, opened: Opener, dialect: Dialect, into: Path) -> list[str]:
        """Write all rows; what to say of them."""
        kept = [place for place, name in enumerate(self.names) if name is not None]
        features = {name: datasets.Value("string") for name in self.names if name is not None}
        nameless = [_Nameless(place, self.shown) for place in range(len(self.names))]
        is_doubtful = dialect.quotes and not dialect.trusted
        swallowed = Swallowed(dialect.separator, len(self.names)) if is_doubtful else None
        with closing(opened()) as lines, ArrowRows(into, features) as rows:
            records = _Records(self, dialect, lines, swallowed)
            for batch in records.batches():
                columns = [pa.array(values, pa.string()) for values in batch]
                if dialect.escapes:
                    columns = [escapes_shown(column) for column in columns]
                if dialect.quotes and not dialect.blanks:
                    _look_for_blanks(columns)
                for place, name in enumerate(self.names):
                    if name is None:
                        nameless[place].see(columns[place], rows.rows)
                rows.write([columns[place] for place in kept])
        if swallowed is not None and (found := swallowed.found()):
            raise DataError(
                f"{self.shown}: line {found[0]}: a quote that opens a field there is closed in line {found[1]} only, "
                "and what is between looks like rows; close it, or double a quote that is part of the text "
                "(format.quotes: true takes such fields as they are)"
            )
        said = [*self.remarks]
        said += [one.remark() for one in nameless if self.names[one.place] is None and rows.rows]
        if records.empty:
            said.append(f"{records.empty:,} rows without a value are left out")
        return said


def _look_for_blanks(columns: Sequence[pa.Array]) -> None:
    for column in columns:
        if not pc.any(pc.starts_with(column, " ")).as_py():
            continue
        if pc.any(pc.match_substring_regex(column, _BLANK_BEFORE_QUOTE)).as_py():
            raise _BlankBeforeQuote


@dataclass
class _Nameless:
    """A column without a name: an index, or empty."""

    place: int
    shown: str
    is_index: bool = True
    is_empty: bool = True

    def see(self, values: pa.Array, before: int) -> None:
        """Take in some rows.

        Raises:
            DataError: it is neither.
        """
        empty = pc.equal(pc.utf8_trim_whitespace(values), "")
        number = pc.match_substring_regex(values, r"^\d+(\.0)?$")
        self.is_empty = self.is_empty and pc.all(empty).as_py()
        self.is_index = self.is_index and self.place == 0 and pc.all(number).as_py()
        if not self.is_empty and not self.is_index:
            odd = pc.index(number if self.place == 0 else empty, pa.scalar(False)).as_py()
            raise DataError(
                f"{self.shown}: line 1 has no name for column {self.place + 1}, which holds "
                f"{printable(values[odd].as_py(), 60)!r} in row {before + odd + 1}; name it"
            )

    def remark(self) -> str:
        """What became of it."""
        what = "is empty" if self.is_empty else "is an index"
        return f"column {self.place + 1} without a name {what} and is left out"


class _Records:
    """The rows of a file, as lists of fields of one number."""

    def __init__(self, table: _Table, dialect: Dialect, lines: TextIO, swallowed: Swallowed | None) -> None:
        self.table, self.dialect, self.swallowed = table, dialect, swallowed
        self.width = len(table.names)
        self.reader = dialect.reader(islice(lines, dialect.skip, None))
        self.row = self.line = self.empty = 0
        """Row, and the line that the row before ended in."""

    def batches(self) -> Iterator[list[tuple[str, ...]]]:
        """Columns of about a thousand rows each.

        Raises:
            DataError: a line is not right.
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
                        self._several_lines(fields, end)
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
            raise self._cannot_read(error) from None
        if batch:
            yield self._columns(batch)

    def _columns(self, batch: list[list[str]]) -> list[tuple[str, ...]]:
        columns = list(zip(*batch, strict=True))
        if self.swallowed is not None and self.row <= _ROWS_TO_LEARN_FROM:
            self.swallowed.learn(columns)
        return columns

    def _place(self, end: int) -> str:
        first = self.line + 1 + self.dialect.skip
        lines = f"line {first}" if end + self.dialect.skip == first else f"lines {first} to {end + self.dialect.skip}"
        return f"{lines} (row {self.row + 1})"

    def _refuse_width(self, fields: list[str]) -> None:
        if self.dialect.quotes and not self.dialect.blanks:
            _look_for_blanks([pa.array(fields, pa.string())])
        end = self.reader.line_num
        amount = f"{len(fields)} field{'s' if len(fields) != 1 else ''}"
        of = "line 1 names" if self.table.has_header else "format.columns names"
        of += f" {self.width} column{'s' if self.width != 1 else ''}"
        remedy = "mend it"
        if end - self.line > 1:
            remedy = "look for a quote that is not closed in its first line"
        elif len(fields) > self.width:
            remedy = f"mend it: a text that holds {self.dialect.separator!r} stands in double quotes"
        raise DataError(f"{self.table.shown}: {self._place(end)} has {amount} but {of}; {remedy}")

    def _several_lines(self, fields: list[str], end: int) -> None:
        if self.dialect.trusted:
            return
        if self.swallowed is not None:
            self.swallowed.suspect(fields, self.line + 1 + self.dialect.skip, end + self.dialect.skip)
        for text in fields:
            if text.count("\n") + text.count("\r") > MOST_LINES and len(text.splitlines()) > MOST_LINES:
                raise DataError(
                    f"{self.table.shown}: {self._place(end)}: a field spans more than {MOST_LINES:,} lines; close the "
                    "quote that opens it, or give such long texts as .jsonl or .parquet"
                )

    def _cannot_read(self, error: csv.Error) -> DataError:
        end = self.reader.line_num
        place = self._place(end)
        if "unexpected end" in str(error):
            cause = "a quote that opens a field there is never closed; close it"
        elif "expected after" in str(error):
            cause = "text follows a quote that closes a field; double quotes that are part of a text in quotes"
        elif "field larger" in str(error):
            cause = "a field is too long; look for a quote that is never closed, and cut longer texts into several rows"
        else:
            cause = f"cannot be read ({printable(str(error), 100)}); mend it"
        return DataError(f"{self.table.shown}: {place}: {cause}")


def _first_problem(dialect: Dialect, opened: Opener, shown: str) -> None:
    """Refuse a file of which not even the header can be read."""
    with closing(opened()) as lines:
        for _ in _Records(_Table([""], False, shown), dialect, lines, None).batches():
            break
    raise DataError(f"{shown}: line 1 names no column; put a line of column names first")
