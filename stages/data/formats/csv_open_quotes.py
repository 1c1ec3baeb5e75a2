"""Detection of CSV rows that were swallowed by a field because a quote was not closed.

A field may hold line breaks, so a quote that is never closed ends at the next quote, rows later. Such a field gives
itself away: each of its lines has the separators of a row, and the values between them resemble those of other rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.text.scripts import is_number

MOST_LINES = 1000
"""Lines of a field; a text with more belongs in JSON Lines or Parquet."""
_MOST_VALUES = 200
_MOST_KEPT = 100_000
_LONGEST_KEPT = 300
_LINE_END = re.compile(r"\r\n|\r|\n")
# That many lines of a text have a row's separators only if they are rows.
_LINES_OF_CHANCE = 10
# A column with that many rows per value, as labels have, holds no other values.
_ROWS_PER_VALUE = 10


@dataclass
class _Column:
    """The values of a column."""

    rows: int = 0
    values: set[str] | None = field(default_factory=set)
    """None once they are many, as texts are."""
    words: bool = True
    """True if no value holds a blank."""
    numbers: bool = True
    longest: int = 0

    def learn(self, values: Sequence[str]) -> None:
        if not self.words and self.values is None:
            return
        distinct = set(values)
        self.rows += len(values)
        joined = "".join(distinct)
        self.words = self.words and joined.split() == [joined]
        self.numbers = self.numbers and all(map(is_number, distinct))
        self.longest = max(self.longest, *map(len, distinct))
        if self.values is not None:
            self.values |= distinct
            self.values = self.values if len(self.values) <= _MOST_VALUES else None

    def resembles(self, value: str) -> bool | None:
        """Return whether `value` may be one of the column's; None if nothing can be said of this column."""
        if self.values is not None and self.rows >= _ROWS_PER_VALUE * len(self.values):
            return value in self.values
        if not self.words:
            return None
        if not value or any(map(str.isspace, value)):
            return False
        return is_number(value) if self.numbers else len(value) <= 2 * self.longest


@dataclass(frozen=True)
class _Suspect:
    line: int
    last_line: int
    values: tuple[tuple[int, str], ...]
    """Columns, and the values that rows inside the field would have there."""


@dataclass
class SwallowedRows:
    """Detector of rows inside the fields of a file."""

    separator: str
    width: int
    suspects: list[_Suspect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = [_Column() for _ in range(self.width)]
        self.kept = 0
        """Values of all suspects, which stay in memory."""

    def learn(self, columns: Sequence[Sequence[str]]) -> None:
        """Learn the values of some rows, column by column."""
        for column, values in zip(self.columns, columns, strict=True):
            column.learn(values)

    def suspect(self, fields: Sequence[str], line: int, last_line: int) -> None:
        """Keep a row of several lines if one of its fields has the form of rows."""
        for column, text in enumerate(fields):
            if self.kept <= _MOST_KEPT and ("\n" in text or "\r" in text):
                values = self._values(_LINE_END.split(text), column)
                if values:
                    self.suspects.append(_Suspect(line, last_line, tuple(values)))
                    self.kept += len(values)

    def _values(self, lines: Sequence[str], inside: int) -> list[tuple[int, str]]:
        """Return columns and values of the rows inside a field of column `inside`; none if its lines are no rows."""
        values: list[tuple[int, str]] = []
        for number, line in enumerate(lines):
            parts = line.split(self.separator)
            first = inside if number == 0 else 0
            end = inside if number == len(lines) - 1 else self.width - 1
            if len(parts) != end - first + 1:
                return []
            values += [
                (column, part[:_LONGEST_KEPT]) for column, part in enumerate(parts, start=first) if column != inside
            ]
        return values

    def first(self) -> tuple[int, int] | None:
        """Return the first and the last line of the first field that swallowed rows; None if there is none."""
        for suspect in self.suspects:
            answers = [self.columns[column].resembles(value) for column, value in suspect.values]
            known = [answer for answer in answers if answer is not None]
            if all(known) and (known or suspect.last_line - suspect.line >= _LINES_OF_CHANCE):
                return suspect.line, suspect.last_line
        return None
