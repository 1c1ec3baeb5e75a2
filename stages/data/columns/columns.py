"""A column of one split with the location that messages give, and the result that every reader returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.readers.files import check_column

Content = TypeVar("Content")


@dataclass(frozen=True)
class Parsed(Generic[Content]):
    """Result of a reader: the content of every split, read in one form."""

    splits: dict[str, Content]
    labels: tuple[str, ...] = ()
    """Class names in the order of the head's outputs; empty for tasks without classes."""
    remarks: tuple[str, ...] = ()
    """One sentence for each choice between possible readings."""


@dataclass(frozen=True)
class Column:
    """A column of one split."""

    rows: Dataset
    name: str
    where: str
    """Location of the split in messages."""
    noun: str = "column"

    def numbered(self) -> Iterator[tuple[int, Any]]:
        """Yield every row, counted from 1, and its value.

        Raises:
            DataError: the split has no such column.
        """
        check_column(self.rows.column_names, self.name, self.where)
        return enumerate(self.rows[self.name], start=1)

    def at(self, row: int) -> str:
        """Return the location of a row, counted from 1."""
        return f"{self.where}: row {row}: {self.noun} {self.name!r}"

    def error(self, row: int, message: str) -> DataError:
        """Return an error about a row, counted from 1; the message continues its location."""
        return DataError(f"{self.at(row)} {message}")


Columns = Mapping[str, Column]
"""One column in every split."""


def columns_of(raw: Mapping[str, Dataset], name: str, where: Mapping[str, str], noun: str = "column") -> Columns:
    """Return the column `name` of every split."""
    return {split: Column(rows, name, where[split], noun) for split, rows in raw.items()}


def shown(value: object) -> str:
    """Return a value as messages quote it."""
    if value is None or value == "":
        return "missing" if value is None else "empty"
    return repr(printable(str(value), 60))
