"""Quotes within a field that are written with a backslash before them, as Spark and MySQL write them, not doubled."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, TextIO

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from _csv import Reader

# No text holds it: `stages.data.files.limits` refuses it.
_STANDS_FOR_QUOTE = "\0"
_ESCAPED = re.compile(r'(?<!\\)((?:\\\\)*)\\"')


def are_escaped(opened: Callable[[], TextIO], reader: Callable[[Iterator[str]], Reader], separator: str) -> bool:
    """Whether backslashes stand before quotes in place of other quotes, by all lines of a file.

    They do where a quote with a backslash before it is followed by neither a quote nor the field's end, if the file
    can be read so. A backslash that ends a field in quotes is a character like any other.

    Args:
        opened: opens the file as text.
        reader: reads its records.
        separator: of the fields.
    """
    ends = f'"{separator}\r\n'
    with closing(opened()) as lines:
        if not any(_is_within(line, ends) for line in lines if '\\"' in line):
            return False
    with closing(opened()) as lines:
        try:
            return len({len(fields) for fields in reader(escapes_hidden(lines)) if fields}) == 1
        except csv.Error:
            return False


def _is_within(line: str, ends: str) -> bool:
    return any(line[found.end() : found.end() + 1] not in ends for found in _ESCAPED.finditer(line))


def escapes_hidden(lines: Iterator[str]) -> Iterator[str]:
    """Lines in which no quote with a backslash before it is left."""
    for line in lines:
        yield _ESCAPED.sub(rf"\1{_STANDS_FOR_QUOTE}", line) if '\\"' in line else line


def hidden_as_quotes(text: str) -> str:
    """A field with the quotes that were hidden."""
    return text.replace(_STANDS_FOR_QUOTE, '"')


def escapes_shown(values: pa.Array) -> pa.Array:
    """Fields with the quotes that were hidden."""
    return pc.replace_substring(values, _STANDS_FOR_QUOTE, '"')
