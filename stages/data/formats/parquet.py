"""Parquet files: bounded by their footers, and read a few megabytes at a time, the named columns alone.

A file of a kilobyte may stand for gigabytes: a dictionary holds a long text once however often it occurs, a run of
equal values takes a few bytes, and a page is decompressed whole. So the footer is checked first; strings are then read
as dictionaries, counted as if each row had its own copy, and decoded in slices of bounded size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from schemas.core.errors import DataError
from stages.data.files.limits import (
    FREE_BYTES,
    MAX_PACKING,
    MAX_ROW_BYTES,
    allowed_bytes,
    row_too_long,
    unpacks_too_far,
    unreadable_parquet,
)
from stages.data.files.read_request import plain_name
from stages.storage.sealed_folder import disk_error

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 65_536
# With DELTA_BYTE_ARRAY a text repeats the previous one at no cost, so no size in the footer bounds its length.
_DELTA_BYTES = 8 << 20
_DELTA_ROWS = 8
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DECIMAL_BYTES = 32
_LEVEL_BYTES = 4
"""Definition and repetition level of a value in a list or an object while it is decoded."""


def strings_in(config: object) -> frozenset[str]:
    """Return all strings among the values of a config, which include the columns that it names."""
    if isinstance(config, str):
        return frozenset((config,))
    if isinstance(config, Mapping):
        config = config.values()
    if not isinstance(config, Iterable):
        return frozenset()
    return frozenset().union(*(strings_in(value) for value in config))


def columns_among(path: Path, named: Collection[str]) -> list[str]:
    """Return the file's columns that are named, in its order; case and surrounding blanks do not count.

    Args:
        path: a Parquet file that passed `check_bounds`.
        named: names, most of which may be no columns; a dot leads into an object.
    """
    known = {plain_name(part) for name in named for part in (name, name.partition(".")[0])}
    return [name for name in pq.read_schema(path).names if plain_name(name) in known]


def write_parquet_rows(path: Path, where: str, columns: Collection[str] | None, into: Path) -> int:
    """Write the file's rows to an Arrow file that `datasets` opens.

    Args:
        path: the Parquet file.
        where: the field that names it.
        columns: those to read; None for all. The others keep their names and hold nulls.
        into: the Arrow file.

    Returns:
        Number of rows.

    Raises:
        DataError: the file is damaged, or holds too much for its size.
        OSError: `into` cannot be written.
    """
    shown = f"{where}: {path}"
    try:
        rows = _Rows(path, shown, columns)
        with pa.OSFile(str(into), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
            written = 0
            for batch in rows.batches():
                written += batch.num_rows
                for part in _parts(batch):
                    writer.write_batch(_decoded(part, rows.schema))
        return written
    except DataError:
        raise
    except Exception as error:
        if (refused := disk_error(error)) is not None:
            raise refused from None
        # pyarrow and datasets raise whatever a damaged file or an unknown type leads them to.
        raise unreadable_parquet(shown, error) from None


class _Rows:
    """The rows of a Parquet file, read within the bounds."""

    def __init__(self, path: Path, shown: str, columns: Collection[str] | None) -> None:
        self.path, self.shown = path, shown
        self.metadata = pq.read_metadata(path)
        self.allowed = allowed_bytes(path.stat().st_size)
        schema = pq.read_schema(path)
        self.columns = [name for name in schema.names if columns is None or name in columns]
        self.leaves = [
            number
            for number in range(self.metadata.num_columns)
            if _belongs(self.metadata.schema.column(number).path, self.columns)
        ]
        fields = [
            field.with_type(_value_type(field.type) if field.name in self.columns else pa.null()) for field in schema
        ]
        features = Features.from_arrow_schema(pa.schema(fields, schema.metadata))
        self.schema = features.arrow_schema
        """Of the rows that are written."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the named columns, a few megabytes at a time, with strings as dictionaries.

        Raises:
            DataError: a row, or the file, unpacks to too much.
        """
        self._check_footer()
        strings = [self.metadata.schema.column(leaf).path for leaf in self.leaves if self._as_dictionary(leaf)]
        unpacked = before = 0
        with pq.ParquetFile(self.path, read_dictionary=strings) as file:
            for group in range(self.metadata.num_row_groups):
                if not self.columns:
                    yield _without_columns(self.metadata.row_group(group).num_rows)
                    continue
                for batch in file.iter_batches(self._rows_at_once(group), [group], self.columns, use_threads=False):
                    unpacked += self._bytes_of(batch, before)
                    if unpacked > self.allowed:
                        raise unpacks_too_far(self.shown, self.allowed)
                    before += batch.num_rows
                    yield batch

    def _check_footer(self) -> None:
        """Check the numbers of values and the sizes of pages in the footer."""
        total = 4 * self.metadata.num_rows
        for group in range(self.metadata.num_row_groups):
            chunks = self.metadata.row_group(group)
            for leaf in self.leaves:
                chunk = chunks.column(leaf)
                declared = max(chunk.num_values * self._width(leaf), chunk.total_uncompressed_size)
                total += declared
                if declared > max(FREE_BYTES, MAX_PACKING * chunk.total_compressed_size):
                    raise unpacks_too_far(self.shown, self.allowed)
        if total > self.allowed:
            raise unpacks_too_far(self.shown, self.allowed)

    def _width(self, leaf: int) -> int:
        """Return the bytes of a value in memory; of a string, those of its index into the dictionary."""
        column = self.metadata.schema.column(leaf)
        nested = _LEVEL_BYTES if column.max_repetition_level or "." in column.path else 0
        if column.logical_type.type == "DECIMAL":
            return _DECIMAL_BYTES + nested
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            return int(column.length) + nested
        return _WIDTHS.get(column.physical_type, 4) + nested

    def _as_dictionary(self, leaf: int) -> bool:
        """Return whether pyarrow can read a leaf as a dictionary: strings without delta encoding."""
        column = self.metadata.schema.column(leaf)
        return (
            column.physical_type == "BYTE_ARRAY"
            and column.logical_type.type != "DECIMAL"
            and not any(
                _is_delta(self.metadata.row_group(group).column(leaf)) for group in range(self.metadata.num_row_groups)
            )
        )

    def _rows_at_once(self, group: int) -> int:
        """Return how many rows of a group to decode together."""
        chunks = self.metadata.row_group(group)
        size, most = 4 * chunks.num_rows, _BATCH_ROWS
        for leaf in self.leaves:
            chunk = chunks.column(leaf)
            size += max(chunk.num_values * self._width(leaf), chunk.total_uncompressed_size)
            if _is_delta(chunk):
                most = max(_DELTA_ROWS, _DELTA_BYTES // max(1, chunk.total_uncompressed_size))
        return max(1, min(most, _BATCH_ROWS, _BATCH_BYTES * chunks.num_rows // max(1, size)))

    def _bytes_of(self, batch: pa.RecordBatch, before: int) -> int:
        """Return the bytes of some rows if each has its own copy of its texts; refuse a row that is too long."""
        total = 0
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            total += (size := _bytes_of(column))
            if size > MAX_ROW_BYTES and (row := _long_row(column)) is not None:
                raise row_too_long(self.shown, name, before + row + 1)
        return total


def _belongs(leaf: str, columns: list[str]) -> bool:
    """Return whether a leaf's path leads through one of the columns, whose names may hold dots."""
    return any(leaf == name or leaf.startswith(f"{name}.") for name in columns)


def _is_delta(chunk: pq.ColumnChunkMetaData) -> bool:
    return "DELTA_BYTE_ARRAY" in chunk.encodings


def _without_columns(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(rows)], [""])


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, which `datasets` cannot describe; pandas writes categories as such."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_map(kind):
        return pa.map_(_value_type(kind.key_type), _value_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_value_type(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_value_field(kind), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_value_field(kind))
    return pa.list_(_value_field(kind)) if pa.types.is_list(kind) else kind


def _value_field(kind: Any) -> pa.Field:
    return kind.value_field.with_type(_value_type(kind.value_type))


def _bytes_of(column: pa.Array) -> int:
    """Return the bytes of an array, with each string of a dictionary counted as often as it occurs."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return int(_lengths(column).sum()) + 4 * len(column)
    if pa.types.is_struct(kind):
        return len(column) + sum(_bytes_of(column.field(n)) for n in range(kind.num_fields))
    if pa.types.is_fixed_size_list(kind):
        return len(column) + _bytes_of(column.flatten())
    items: tuple[pa.Array, ...]
    if pa.types.is_map(kind):
        items = (column.keys, column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = (column.values,)
    else:
        return int(column.nbytes)
    first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
    return 8 * len(column) + sum(_bytes_of(values.slice(first, last - first)) for values in items)


def _lengths(column: pa.DictionaryArray) -> np.ndarray[Any, Any]:
    """Return the bytes of each value, without iterating over a dictionary that a batch may hardly use."""
    kind, dictionary = column.type.value_type, column.dictionary
    if not pa.types.is_string(kind) and not pa.types.is_binary(kind):
        return np.full(len(column), dictionary.nbytes // max(1, len(dictionary)))
    if not len(dictionary):
        return np.zeros(len(column), np.int64)
    offsets = np.frombuffer(dictionary.buffers()[1], np.int32)[dictionary.offset :]
    indices = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
    lengths = offsets[indices + 1].astype(np.int64) - offsets[indices]
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return lengths


def _long_row(column: pa.Array) -> int | None:
    """Return the first row that is too long, by bisection; None if there is none."""
    if len(column) == 1:
        return 0
    half = len(column) // 2
    for start, part in ((0, column.slice(0, half)), (half, column.slice(half))):
        if _bytes_of(part) > MAX_ROW_BYTES and (row := _long_row(part)) is not None:
            return start + row
    return None


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch in pieces of a few megabytes, with each string counted as often as it occurs."""
    size = sum(map(_bytes_of, batch.columns))
    if size <= _BATCH_BYTES or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _decoded(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows with every column of the schema; those that the batch lacks hold nulls."""
    read = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns = [
        read[field.name].cast(field.type) if field.name in read else pa.nulls(batch.num_rows) for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
