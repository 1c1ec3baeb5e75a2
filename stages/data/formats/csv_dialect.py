"""How a file of comma- or tab-separated values is written, told from its header and all of its lines.

There is no standard for tabs: pandas, Excel and `datasets` enclose a field that holds a tab, a line's end or a quote in
quotes, as they do with commas; the files of GLUE never do, and quotes are characters like any other there. Which of the
two a file is follows from the whole of it:

* No field begins with a quote: nothing to decide.
* Some line has not as many fields as the header, unless quotes enclose fields: they do.
* Every field that begins with a quote also ends with one and has only doubled quotes between, and
  - all fields of some column are of that kind, or
  - some hold doubled quotes, and no other field holds a quote, or
  - they are two or more, hold commas or doubled quotes each, and no other field holds either (so writes Excel):
  they enclose fields.
* Otherwise they are part of the text.
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

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.limits import MAX_COLUMNS, MAX_ROW_BYTES
from stages.data.files.read_request import Reading, renamed
from stages.data.formats.csv_escapes import are_escaped, escapes_hidden, hidden_as_quotes

if TYPE_CHECKING:
    from _csv import Reader

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_EXCEL_LINE = re.compile(r"^sep=(.)\r?\n?$")
_FEW = 100

# The csv module's own limit of 128 KB is for the whole process, and no row of ours is that small.
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))

Opener = Callable[[], TextIO]


@dataclass(frozen=True)
class Dialect:
    """How the fields of a file are told apart."""

    separator: str
    quotes: bool
    skip: int = 0
    """Lines before the header."""
    blanks: bool = False
    """Whether blanks after a separator are no part of a field."""
    escapes: bool = False
    """Whether a quote within a field has a backslash before it instead of being doubled."""
    trusted: bool = False
    """Whether the recipe says that quotes enclose fields, so that no field is too long or looks too much like rows."""

    def reader(self, lines: Iterator[str]) -> Reader:
        """The records of lines of which those to skip are gone."""
        return csv.reader(
            escapes_hidden(lines) if self.escapes else lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            skipinitialspace=self.blanks,
            strict=True,
        )

    def first(self, opened: Opener, amount: int) -> list[list[str]]:
        """The first records, as far as they can be read."""
        records: list[list[str]] = []
        with closing(opened()) as lines:
            reader = self.reader(islice(lines, self.skip, None))
            try:
                for fields in islice(reader, amount):
                    shown = map(hidden_as_quotes, fields) if self.escapes else fields
                    records += [[*shown]] if fields else []
            except csv.Error:
                pass  # said where all rows are read
        return records


def find_dialect(opened: Opener, reading: Reading, separator: str, shown: str) -> tuple[Dialect, list[str]]:
    """How a file is written, and what to say of it.

    Args:
        opened: opens the file as text, with its lines' ends as they are.
        reading: the columns to look for, and what is known of the file.
        separator: what its name says.
        shown: how messages name the file.

    Raises:
        DataError: the header has too many columns.
    """
    with closing(opened()) as lines:
        excel = _EXCEL_LINE.match(lines.readline())
    skip, remarks = (1, []) if excel else (0, [])
    given = reading.format.separator or (excel[1] if excel else None)
    found = given or _separator(opened, reading, separator, skip)
    if found != separator and reading.format.separator is None:
        remarks.append(f"fields are separated by {SEPARATORS.get(found, repr(found))} (format.separator names another)")
    quotes = True if reading.format.quotes is None else reading.format.quotes
    dialect = Dialect(found, quotes, skip)
    if quotes and _has_blanks(dialect.first(opened, _FEW)):
        dialect = Dialect(found, quotes, skip, blanks=True)
        remarks.append("the blank after each separator is left out")
    header = (dialect.first(opened, 1) or [[]])[0]
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{shown}: line 1 names {len(header):,} columns; give a file of at most {MAX_COLUMNS:,}")
    if found == "\t" and reading.format.quotes is None:
        quotes, more = _quotes_between_tabs(opened, skip)
        dialect, remarks = Dialect(found, quotes, skip), remarks + more
    escapes = reading.format.escapes
    if escapes is None and dialect.quotes and are_escaped(opened, _rest(dialect), found):
        escapes = True
        remarks.append(
            "a quote with a backslash before it is part of the text (format.escapes: false reads it as any other)"
        )
    trusted = reading.format.quotes is True
    dialect = replace(dialect, escapes=dialect.quotes and bool(escapes), trusted=trusted)
    return dialect, remarks


def _rest(dialect: Dialect) -> Callable[[Iterator[str]], Reader]:
    return lambda lines: dialect.reader(islice(lines, dialect.skip, None))


def _has_blanks(records: Sequence[Sequence[str]]) -> bool:
    """Whether a blank follows every separator, the header's too."""
    return any(len(record) > 1 for record in records) and all(
        field.startswith(" ") for record in records for field in record[1:]
    )


def _separator(opened: Opener, reading: Reading, separator: str, skip: int) -> str:
    """The separator under which the header has most of the columns looked for; what the name says where none does."""

    def fitness(candidate: str) -> tuple[int, int]:
        records = Dialect(candidate, quotes=True, skip=skip).first(opened, 2)
        if not records:
            return 0, 0
        header = records[0]
        named = set(header) | set(renamed(header, reading.columns).values())
        widths = {len(record) for record in records}
        if reading.format.columns is not None:
            return 0, int(widths == {len(reading.format.columns)})
        return len(named & set(reading.columns)), int(len(widths) == 1 and len(header) > 1)

    candidates = [separator, *(other for other in SEPARATORS if other != separator)]
    return max(candidates, key=fitness)  # the first of several equal ones


@dataclass
class _Quotes:
    """What the quotes in a file's lines look like when they are characters like any other."""

    width: int
    """Fields of the header."""
    uneven: bool = False
    """Whether a line has another number of fields."""
    lines: int = 0
    begin: int = 0
    """Fields that begin with a quote."""
    enclosed: int = 0
    """Those that end with one too, and have only doubled ones between."""
    doubled: int = 0
    """Those that have any."""
    needy: int = 0
    """Those that hold a comma or doubled quotes."""
    other: int = 0
    """Fields that hold a quote without beginning with one."""
    commas: int = 0
    """Lines with a comma outside of enclosed fields."""

    def __post_init__(self) -> None:
        self.by_column = np.zeros(self.width, np.int64)

    def see(self, line: str) -> None:
        """Count what is in a line."""
        self.lines += 1
        if line.count("\t") + 1 != self.width:
            self.uneven = True
        if '"' not in line:
            self.commas += "," in line
            return
        for place, text in enumerate(line.rstrip("\r\n").split("\t")):
            is_enclosed = False
            if text.startswith('"'):
                self.begin += 1
                is_enclosed = len(text) > 1 and text.endswith('"') and not _has_single(text[1:-1])
            elif '"' in text:
                self.other += 1
            if is_enclosed:
                self.enclosed += 1
                has_doubled = '""' in text[1:-1]
                self.doubled += has_doubled
                self.needy += has_doubled or "," in text
                if place < self.width:
                    self.by_column[place] += 1
            else:
                self.commas += "," in text

    @property
    def enclose(self) -> bool:
        """Whether quotes enclose fields, by the rules at the top."""
        if not self.begin or self.enclosed < self.begin:
            return False
        # The header may be without.
        if self.lines > 2 and self.by_column.max(initial=0) >= self.lines - 1:
            return True
        if self.doubled and not self.other:
            return True
        is_needed = self.enclosed > 1 and self.needy == self.enclosed
        return is_needed and not self.commas and not self.other


def _has_single(text: str) -> bool:
    """Whether a text holds a quote that is not doubled."""
    return '"' in text.replace('""', "")


def _quotes_between_tabs(opened: Opener, skip: int) -> tuple[bool, list[str]]:
    """Whether quotes enclose fields of a tab-separated file, and what to say of it."""
    with closing(opened()) as lines:
        rest = islice(lines, skip, None)
        header = next(rest, "")
        found = _Quotes(header.count("\t") + 1)
        found.see(header)
        for line in rest:
            if not line.isspace():
                found.see(line)
    if not found.begin:
        return False, []
    if found.uneven and _is_even(opened, skip):
        return True, [
            "read with quotes: only with them has every row the header's number of fields (format.quotes: false "
            "takes them as text)"
        ]
    if found.enclose:
        return True, [
            f"read with quotes, as pandas and Excel write them; they enclose {found.enclosed:,} fields (format.quotes: "
            "false takes them as text)"
        ]
    if not found.enclosed:
        return False, []
    return False, [
        f"quotes are taken as text; they enclose {found.enclosed:,} of the {found.begin:,} fields that begin with one "
        "(format.quotes: true takes them off)"
    ]


def _is_even(opened: Opener, skip: int) -> bool:
    """Whether every row has the header's number of fields where quotes enclose fields."""
    with closing(opened()) as lines:
        records = Dialect("\t", quotes=True).reader(islice(lines, skip, None))
        try:
            width = len(next(records, []))
            return all(len(fields) in (0, width) for fields in records)
        except csv.Error:
            return False


def refuse_rows_without_header(records: Sequence[Sequence[str]], reading: Reading, shown: str) -> None:
    """Refuse a file whose first line has no wanted column and looks like a row.

    Args:
        records: the header and the first rows.
        reading: the columns to look for.
        shown: how messages name the file.

    Raises:
        DataError: with how to name the columns.
    """
    header = records[0]
    named = set(header) | set(renamed(header, reading.columns).values())
    if not reading.columns or named & set(reading.columns):
        return
    columns = list(zip(*(row for row in records[1:] if len(row) == len(header)), strict=True))
    if not any(map(_is_value, header, columns or [()] * len(header))):
        return
    example = [*reading.columns[: len(header)]]
    example += [f"column_{number}" for number in range(len(example) + 1, len(header) + 1)]
    wanted = " or ".join(reading.columns)
    raise DataError(
        f"{shown}: line 1 seems to be a row, not a header ({printable(', '.join(header), 120)!r}, without {wanted}); "
        f"put a line of column names before it, or name them all in order, such as format.columns: "
        f"[{', '.join(example)}]"
    )


def _is_value(name: str, values: Sequence[str]) -> bool:
    """Whether a header's field looks like those below it: a number, a long text, or a value that comes again."""
    if re.fullmatch(r"[+-]?\d+([.,]\d+)?", name.strip()) or len(name.split()) > 5:
        return True
    return name in values
