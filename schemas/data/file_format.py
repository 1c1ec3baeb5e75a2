"""How a file of rows is written, where its name and its content leave a choice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.core.base import Frozen

Encoding = Literal[
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "iso-8859-2",
    "iso-8859-15",
    "koi8-r",
    "mac-roman",
    "gb18030",
    "big5",
    "shift-jis",
    "cp932",
    "euc-jp",
    "euc-kr",
    "cp949",
]


class FileFormat(Frozen):
    """How a file of rows is written; what is null is told from the file."""

    encoding: Encoding | None = None
    """Encoding of a text file; null for UTF-8, or the encoding that the file's byte order mark names."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Character between the fields of a .csv or .tsv file; null for the comma, tab, semicolon or bar that fits."""
    quotes: bool | None = None
    """Whether double quotes enclose fields of a .csv or .tsv file; null for yes, or where tabs separate the fields for
    what the whole file fits."""
    escapes: bool | None = None
    """Whether a quote with a backslash before it is part of a field in quotes; null for what the whole file fits."""
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(default=None, min_length=1, max_length=1000)
    """Names of all columns of a file without a header, in order, of words and tags too."""
    layout: Literal["table", "conll"] | None = None
    """Whether a row is a line (table), or a word is a line and a blank line ends a sentence (conll); null for what the
    file's name and its first line say."""

    @field_validator("separator")
    @classmethod
    def _can_separate(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n':
            raise ValueError("a quote or a line's end cannot separate fields; give one such as ;")
        return value

    @model_validator(mode="after")
    def _columns_differ(self) -> FileFormat:
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: a name is listed twice; give each column one of its own")
        return self
