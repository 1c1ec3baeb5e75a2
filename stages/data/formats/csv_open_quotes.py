"""Rows of a CSV file that stand inside of a field because a quote was not closed.

A field may hold line breaks, so a quote that is never closed ends at whatever quote comes next, rows later. Such a
field gives itself away: each of its lines has the separators that a row needs there, and the values between them are
like those of the other rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_LINES = 1000
"""Lines of a field; a text with more belongs in JSON Lines or Parquet."""
_MOST_VALUES = 200
_MOST_KEPT = 100_000
_LONGEST_KEPT = 300
_LINE_END = re.compile(r"\r\n|\r|\n")
# A text has the separators of a row in so many lines only if it is rows.
_LINES_OF_CHANCE = 10
# A column with so many rows for each of its values holds no others, as labels do not.
_ROWS_OF_A_VALUE = 10


@dataclass
class _Column:
    """The values of a column."""

    rows: int = 0
    seen: set[str] | None = field(default_factory=set)
    """None where they are many, as texts are."""
    words: bool = True
    """Whether none holds a blank."""
    numbers: bool = True
    longest: int = 0

    def learn(self, values: Sequence[str]) -> None:
        if not self.words and self.seen is None:
            return
        distinct = set(values)
        self.rows += len(values)
        joined = "".join(distinct)
        self.words = self.words and joined.split() == [joined]
        self.numbers = self.numbers and all(map(_is_number, distinct))
        self.longest = max(self.longest, *map(len, distinct))
        if self.seen is not None:
            self.seen |= distinct
            self.seen = self.seen if len(self.seen) <= _MOST_VALUES else None

    def tells(self) -> bool:
        """Whether it can be told what is a value of the column."""
        return self.words or self._is_closed()

    def is_like(self, value: str) -> bool:
        """Whether `value` may be one of the column."""
        if self._is_closed():
            return self.seen is not None and value in self.seen
        if not value or any(map(str.isspace, value)):
            return False
        return _is_number(value) if self.numbers else len(value) <= 2 * self.longest

    def _is_closed(self) -> bool:
        return self.seen is not None and self.rows >= _ROWS_OF_A_VALUE * len(self.seen)


@dataclass(frozen=True)
class _Suspect:
    line: int
    last_line: int
    values: tuple[tuple[int, str], ...]
    """Columns, and the values that rows inside of the field would have there."""


@dataclass
class Swallowed:
    """Looks for swallowed rows among all of a file."""

    separator: str
    width: int
    suspects: list[_Suspect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = [_Column() for _ in range(self.width)]
        self.kept = 0
        """Values of all suspects, which stay in memory."""

    def learn(self, columns: Sequence[Sequence[str]]) -> None:
        """Take in the values of some rows, column by column."""
        for column, values in zip(self.columns, columns, strict=True):
            column.learn(values)

    def suspect(self, fields: Sequence[str], line: int, last_line: int) -> None:
        """Keep a row of several lines if one of its fields looks like rows."""
        if self.kept > _MOST_KEPT:
            return
        for place, text in enumerate(fields):
            if "\n" in text or "\r" in text:
                values = self._values(_LINE_END.split(text), place)
                if values:
                    self.suspects.append(_Suspect(line, last_line, tuple(values)))
                    self.kept += len(values)

    def _values(self, lines: Sequence[str], place: int) -> list[tuple[int, str]]:
        """What rows within a field of some column would have in the other columns; none where it has not their form."""
        values: list[tuple[int, str]] = []
        for number, line in enumerate(lines):
            parts = line.split(self.separator)
            first = place if number == 0 else 0
            end = place if number == len(lines) - 1 else self.width - 1
            if len(parts) != end - first + 1:
                return []
            values += [
                (column, part[:_LONGEST_KEPT])
                for column, part in zip(range(first, end + 1), parts, strict=True)
                if column != place
            ]
        return values

    def found(self) -> tuple[int, int] | None:
        """First and last line of the first row that swallowed others; None where there is none."""
        for suspect in self.suspects:
            told = [
                self.columns[place].is_like(value) for place, value in suspect.values if self.columns[place].tells()
            ]
            if all(told) and (told or suspect.last_line - suspect.line >= _LINES_OF_CHANCE):
                return suspect.line, suspect.last_line
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
