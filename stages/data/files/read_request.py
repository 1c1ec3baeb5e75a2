"""The request to read a file of rows, and the Arrow file that its rows are written to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import datasets
import pyarrow as pa

from schemas.data.file_format import FileFormat

_IGNORED = " \t\u00a0\u200b\ufeff\"'"


@dataclass(frozen=True)
class Reading:
    """Request of a task or a corpus to read a file."""

    columns: tuple[str, ...] = ()
    """Columns that the config names; for words and tags these two come first."""
    words: bool = False
    """True if a row is a sentence of words with one tag each."""
    named: frozenset[str] | None = None
    """Names that include every column to read of a Parquet file; None for all columns."""
    format: FileFormat = field(default_factory=FileFormat)

    def identity(self) -> dict[str, Any]:
        """Return all that decides which rows a file gives."""
        settings = self.format.model_dump(mode="json", exclude_none=True)
        return {"columns": self.columns, "words": self.words, "format": settings}


def plain_name(name: str) -> str:
    """Return a column's name without case, and without surrounding blanks, quotes and byte order mark."""
    return name.strip(_IGNORED).casefold()


def renamed(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Match columns to wanted names from which they differ in case, blanks, quotes or a byte order mark only.

    Args:
        names: the columns' names.
        wanted: the names looked for.

    Returns:
        New name by column, for each wanted name that no column has and exactly one column resembles.
    """
    plain = [plain_name(name) for name in names]
    missing = [column for column in dict.fromkeys(wanted) if column not in names]
    meant = [plain_name(column) for column in missing]
    matches = {}
    for column, key in zip(missing, meant, strict=True):
        if plain.count(key) == meant.count(key) == 1 and (name := names[plain.index(key)]) not in wanted:
            matches[name] = column
    return matches


def renaming_remark(names: Mapping[str, str]) -> str:
    """Return a remark about columns that are read under other names."""
    return ", ".join(f"column {old!r} is read as {new!r}" for old, new in names.items())


class ArrowRows:
    """Writer of rows to a file that `datasets` opens; a file without rows is removed."""

    def __init__(self, path: Path, features: Mapping[str, Any]) -> None:
        self.path, self.rows = path, 0
        self.schema = datasets.Features(features).arrow_schema

    def __enter__(self) -> ArrowRows:
        self.file = pa.OSFile(str(self.path), "wb")
        self.writer = pa.ipc.new_stream(self.file, self.schema)
        return self

    def write(self, columns: Sequence[pa.Array]) -> None:
        """Write some rows, as one array per column."""
        batch = pa.RecordBatch.from_arrays(list(columns), schema=self.schema)
        self.writer.write_batch(batch)
        self.rows += batch.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()
        self.file.close()
        if not self.rows or error is not None:
            self.path.unlink(missing_ok=True)


def rename_columns(path: Path, names: Mapping[str, str]) -> None:
    """Rewrite an Arrow file with new names for some columns."""
    beside = path.with_suffix(".renamed")
    with pa.memory_map(str(path)) as file:
        stream = pa.ipc.open_stream(file)
        features = datasets.Features.from_arrow_schema(stream.schema)
        with ArrowRows(beside, {names.get(name, name): kind for name, kind in features.items()}) as rows:
            for batch in stream:
                rows.write(batch.columns)
    os.replace(beside, path)
