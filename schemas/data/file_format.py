"""Format of a file of rows, as far as its name and its content leave a choice."""

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
    """Format of a file of rows; fields that are null are inferred from the file."""

    encoding: Encoding | None = None
    """Encoding of a text file; null for UTF-8, or the encoding of the file's byte order mark."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Character between the fields of a .csv or .tsv file; null for comma, tab, semicolon or bar, whichever fits."""
    quotes: bool | None = None
    """True if double quotes enclose fields of a .csv or .tsv file; null for yes, or with tabs for what fits the whole
    file."""
    escapes: bool | None = None
    """True if a backslash escapes a quote inside a quoted field; null for what fits the whole file."""
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(default=None, min_length=1, max_length=1000)
    """Names of all columns, in order, of a file without a header."""
    layout: Literal["table", "conll"] | None = None
    """One row per line (table), or one word per line with a blank line after each sentence (conll); null to infer it
    from the file's name and first line."""

    @field_validator("separator")
    @classmethod
    def _can_separate(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n':
            raise ValueError("a quote or a line break cannot separate fields; give another character, such as ;")
        return value

    @model_validator(mode="after")
    def _columns_differ(self) -> FileFormat:
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: a name is listed twice; give every column a different name")
        return self
