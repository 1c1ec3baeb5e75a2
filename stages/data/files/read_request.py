"""What is asked of a file of rows, and the Arrow file that its rows are written to."""

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
    """What a task or a corpus asks of a file, beside its name."""

    columns: tuple[str, ...] = ()
    """The columns that are named; of words and tags first those two."""
    words: bool = False
    """Whether a row is a sentence of words with a tag each."""
    named: frozenset[str] | None = None
    """Names among which every column is that is read of a Parquet file; None for all."""
    format: FileFormat = field(default_factory=FileFormat)

    def identity(self) -> dict[str, Any]:
        """Whatever decides the rows that a file gives."""
        settings = self.format.model_dump(mode="json", exclude_none=True)
        return {"columns": self.columns, "words": self.words, "format": settings}


def renamed(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """New names for columns that are wanted ones but for case, blanks, quotes or a byte order mark.

    Args:
        names: what the columns are called.
        wanted: what they are called by.

    Returns:
        The new name of each that is meant without doubt: a wanted name that no column has, and one column alone fits.
    """
    plain = [_plain(name) for name in names]
    missing = [column for column in dict.fromkeys(wanted) if column not in names]
    meant = [_plain(column) for column in missing]
    return {
        names[plain.index(_plain(column))]: column
        for column in missing
        if plain.count(_plain(column)) == 1
        and meant.count(_plain(column)) == 1
        and names[plain.index(_plain(column))] not in wanted
    }


def _plain(name: str) -> str:
    return name.strip(_IGNORED).casefold()


def renaming_remark(names: Mapping[str, str]) -> str:
    """How columns were found that are called otherwise."""
    return ", ".join(f"column {old!r} is read as {new!r}" for old, new in names.items())


class ArrowRows:
    """Writes rows to a file that `datasets` opens; removes it where there was none."""

    def __init__(self, path: Path, features: Mapping[str, Any]) -> None:
        self.path, self.rows = path, 0
        self.schema = datasets.Features(features).arrow_schema

    def __enter__(self) -> ArrowRows:
        self.file = pa.OSFile(str(self.path), "wb")
        self.writer = pa.ipc.new_stream(self.file, self.schema)
        return self

    def write(self, columns: Sequence[pa.Array]) -> None:
        """Write some rows, an array for each column."""
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
    """Give columns of a written file their new names."""
    beside = path.with_suffix(".renamed")
    with pa.memory_map(str(path)) as file:
        stream = pa.ipc.open_stream(file)
        features = datasets.Features.from_arrow_schema(stream.schema)
        with ArrowRows(beside, {names.get(name, name): kind for name, kind in features.items()}) as rows:
            for batch in stream:
                rows.write(batch.columns)
    os.replace(beside, path)
