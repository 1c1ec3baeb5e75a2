"""Dialect of a file of comma- or tab-separated values, derived from its header and all of its lines.

There is no standard for tabs: pandas, Excel and `datasets` quote a field that holds a tab, a line break or a quote, as
they do between commas; GLUE's files never do, and their quotes are ordinary characters. The whole file decides which
of the two it is:

* No field begins with a quote: nothing to decide.
* Some line has not as many fields as the header unless quotes enclose fields: they do.
* Every field that begins with a quote also ends with one and has only doubled quotes between, and
  - all fields of some column are quoted, or
  - some hold doubled quotes, and no other field holds a quote, or
  - there are at least two, each holds a comma or doubled quotes, and no other field holds either (as Excel writes):
  quotes enclose fields.
* Otherwise quotes are part of the text.

`csv.Sniffer` and `clevercsv` were measured and left out: the first takes blanks for the separator of GLUE's lines, the
second reads a file whose quote is never closed as a file without quotes (and needs 1.1 s for 20,000 rows).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.limits import MAX_COLUMNS, MAX_ROW_BYTES
from stages.data.files.read_request import Reading, renamed

if TYPE_CHECKING:
    from _csv import Reader

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_EXCEL_LINE = re.compile(r"^sep=(.)\r?\n?$")
_FEW = 100
# No text holds it: `stages.data.files.limits` refuses it.
_HIDDEN_QUOTE = "\0"
_ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')

# The csv module's limit of 128 KB is set for the whole process, and a row may be longer.
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))

Opener = Callable[[], TextIO]


@dataclass(frozen=True)
class Dialect:
    """Rules by which a file's lines are split into fields."""

    separator: str
    quotes: bool
    """True if quotes enclose fields."""
    skip: int = 0
    """Lines before the header."""
    blanks: bool = False
    """True to drop blanks after a separator."""
    escapes: bool = False
    """True if a backslash escapes quotes inside a field, as Spark and MySQL write them, instead of doubling."""
    trusted: bool = False
    """True if the recipe sets `quotes: true`, so that long fields and fields that look like rows pass."""

    def reader(self, lines: Iterator[str]) -> Reader:
        """Return a reader of a file's records, which skips the lines before the header."""
        lines = islice(lines, self.skip, None)
        return csv.reader(
            _hide_escaped(lines) if self.escapes else lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            skipinitialspace=self.blanks,
            strict=True,
        )

    def first(self, opened: Opener, number: int) -> list[list[str]]:
        """Return the first records, as far as they can be read."""
        records: list[list[str]] = []
        with closing(opened()) as lines:
            try:
                for fields in islice(self.reader(lines), number):
                    records += [[text.replace(_HIDDEN_QUOTE, '"') for text in fields]] if fields else []
            except csv.Error:
                pass  # reported where all rows are read
        return records

    def is_even(self, opened: Opener) -> bool:
        """Return whether all records can be read and have the same number of fields."""
        with closing(opened()) as lines:
            try:
                return len({len(fields) for fields in self.reader(lines) if fields}) == 1
            except csv.Error:
                return False


def find_dialect(opened: Opener, reading: Reading, separator: str, shown: str) -> tuple[Dialect, list[str]]:
    """Return the dialect of a file, and remarks about what was derived.

    Args:
        opened: opens the file as text, with its line ends unchanged.
        reading: the columns to look for, and the settings of the recipe.
        separator: the separator that the file's name suggests.
        shown: the file's field and path, for messages.

    Raises:
        DataError: the header has too many columns.
    """
    settings = reading.format
    remarks = []
    with closing(opened()) as lines:
        excel = _EXCEL_LINE.match(lines.readline())
    skip = 1 if excel else 0
    actual = settings.separator or (excel[1] if excel else _separator(opened, reading, separator, skip))
    if actual != separator and settings.separator is None:
        names = _SEPARATORS.get(actual, repr(actual))
        remarks.append(f"fields are separated by {names} (set format.separator if they are not)")
    dialect = Dialect(actual, settings.quotes is not False, skip, trusted=settings.quotes is True)
    if dialect.quotes and _have_blanks(dialect.first(opened, _FEW)):
        dialect = replace(dialect, blanks=True)
        remarks.append("the blank after each separator is dropped")
    header = (dialect.first(opened, 1) or [[]])[0]
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{shown}: line 1 names {len(header):,} columns; give a file of at most {MAX_COLUMNS:,}")
    if actual == "\t" and settings.quotes is None:
        quotes, more = _quotes_between_tabs(opened, skip)
        dialect, remarks = Dialect(actual, quotes, skip), remarks + more
    if not dialect.quotes:
        return dialect, remarks
    escapes = settings.escapes
    if escapes is None and _are_escaped(opened, dialect):
        escapes = True
        remarks.append(
            "a quote after a backslash is part of the text (format.escapes: false reads it like any other quote)"
        )
    return replace(dialect, escapes=bool(escapes)), remarks


def _separator(opened: Opener, reading: Reading, separator: str, skip: int) -> str:
    """Return the separator under which the header has most of the wanted columns; `separator` if none has any."""

    def fitness(candidate: str) -> tuple[int, int]:
        records = Dialect(candidate, quotes=True, skip=skip).first(opened, 2)
        if not records:
            return 0, 0
        header = records[0]
        widths = {len(record) for record in records}
        if reading.format.columns is not None:
            return 0, int(widths == {len(reading.format.columns)})
        return len(_wanted_in(header, reading)), int(len(widths) == 1 and len(header) > 1)

    candidates = [separator, *(other for other in _SEPARATORS if other != separator)]
    return max(candidates, key=fitness)  # the first of several equal ones


def _wanted_in(header: Sequence[str], reading: Reading) -> set[str]:
    """Return the wanted columns that a header has."""
    return (set(header) | set(renamed(header, reading.columns).values())) & set(reading.columns)


def _have_blanks(records: Sequence[Sequence[str]]) -> bool:
    """Return whether a blank follows every separator, also in the header."""
    return any(len(record) > 1 for record in records) and all(
        field.startswith(" ") for record in records for field in record[1:]
    )


def _are_escaped(opened: Opener, dialect: Dialect) -> bool:
    """Return whether backslashes escape quotes, judged by all lines of a file.

    They do if some quote after a backslash is followed by neither a quote nor the field's end, and all rows have the
    same width when read so. A backslash at the end of a quoted field is an ordinary character.
    """
    ends = f'"{dialect.separator}\r\n'

    def is_inside(line: str) -> bool:
        return any(line[match.end() : match.end() + 1] not in ends for match in _ESCAPED_QUOTE.finditer(line))

    with closing(opened()) as lines:
        if not any(is_inside(line) for line in lines if '\\"' in line):
            return False
    return replace(dialect, escapes=True).is_even(opened)


def _hide_escaped(lines: Iterator[str]) -> Iterator[str]:
    """Replace quotes after a backslash by a character that no text holds."""
    for line in lines:
        yield _ESCAPED_QUOTE.sub(rf"\1{_HIDDEN_QUOTE}", line) if '\\"' in line else line


def show_escaped(values: pa.Array) -> pa.Array:
    """Return fields with the hidden quotes restored."""
    return pc.replace_substring(values, _HIDDEN_QUOTE, '"')


@dataclass
class _QuoteCounts:
    """Counts of quotes in a file's lines, read as ordinary characters."""

    width: int
    """Fields of the header."""
    uneven: bool = False
    """True once a line has another number of fields."""
    lines: int = 0
    begin: int = 0
    """Fields that begin with a quote."""
    enclosed: int = 0
    """Fields that also end with one, with doubled quotes alone between."""
    doubled: int = 0
    """Enclosed fields that hold doubled quotes."""
    needy: int = 0
    """Enclosed fields that hold a comma or doubled quotes."""
    other: int = 0
    """Fields that hold a quote but do not begin with one."""
    commas: int = 0
    """Fields with a comma, other than enclosed ones."""

    def __post_init__(self) -> None:
        self.by_column = np.zeros(self.width, np.int64)

    def add(self, line: str) -> None:
        """Count the quotes of a line."""
        self.lines += 1
        if line.count("\t") + 1 != self.width:
            self.uneven = True
        if '"' not in line:
            self.commas += "," in line
            return
        for column, text in enumerate(line.rstrip("\r\n").split("\t")):
            begins, inside = text.startswith('"'), text[1:-1]
            self.begin += begins
            self.other += not begins and '"' in text
            if begins and len(text) > 1 and text.endswith('"') and '"' not in inside.replace('""', ""):
                self.enclosed += 1
                self.doubled += '""' in inside
                self.needy += '""' in inside or "," in text
                if column < self.width:
                    self.by_column[column] += 1
            else:
                self.commas += "," in text

    @property
    def enclose(self) -> bool:
        """True if quotes enclose fields, by the rules at the top of this module."""
        if not self.begin or self.enclosed < self.begin:
            return False
        # The header may be without quotes.
        if self.lines > 2 and self.by_column.max(initial=0) >= self.lines - 1:
            return True
        if self.doubled and not self.other:
            return True
        is_needed = self.enclosed > 1 and self.needy == self.enclosed
        return is_needed and not self.commas and not self.other


def _quotes_between_tabs(opened: Opener, skip: int) -> tuple[bool, list[str]]:
    """Return whether quotes enclose fields of a tab-separated file, and a remark about it."""
    with closing(opened()) as lines:
        rest = islice(lines, skip, None)
        header = next(rest, "")
        counts = _QuoteCounts(header.count("\t") + 1)
        counts.add(header)
        for line in rest:
            if not line.isspace():
                counts.add(line)
    if not counts.begin:
        return False, []
    if counts.uneven and Dialect("\t", quotes=True, skip=skip).is_even(opened):
        return True, [
            "read with quotes: only then does every row have as many fields as the header (format.quotes: false reads "
            "them as text)"
        ]
    if counts.enclose:
        return True, [
            f"read with quotes, as pandas and Excel write them; they enclose {counts.enclosed:,} fields (format.quotes:"
            " false reads them as text)"
        ]
    if not counts.enclosed:
        return False, []
    return False, [
        f"quotes are read as text; they enclose {counts.enclosed:,} of the {counts.begin:,} fields that begin with one "
        "(format.quotes: true removes them)"
    ]


def refuse_rows_without_header(records: Sequence[Sequence[str]], reading: Reading, shown: str) -> None:
    """Refuse a file whose first line has no wanted column and looks like a row.

    Args:
        records: the header and the first rows.
        reading: the columns to look for.
        shown: the file's field and path, for messages.

    Raises:
        DataError: with how to name the columns.
    """
    header = records[0]
    if not reading.columns or _wanted_in(header, reading):
        return
    columns = list(zip(*(row for row in records[1:] if len(row) == len(header)), strict=True))
    if not any(map(_is_value, header, columns or [()] * len(header))):
        return
    example = [*reading.columns[: len(header)]]
    example += [f"column_{number}" for number in range(len(example) + 1, len(header) + 1)]
    raise DataError(
        f"{shown}: line 1 seems to be a row, not a header ({printable(', '.join(header), 120)!r}, without "
        f"{' or '.join(reading.columns)}); put a line of column names before it, or name all columns in order, such as "
        f"format.columns: [{', '.join(example)}]"
    )


def _is_value(name: str, values: Sequence[str]) -> bool:
    """Return whether a header's field looks like a value: a number, a long text, or equal to a value below it."""
    if re.fullmatch(r"[+-]?\d+([.,]\d+)?", name.strip()) or len(name.split()) > 5:
        return True
    return name in values
