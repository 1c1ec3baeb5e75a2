"""Parquet files: bounded by what their footers say, and read a few megabytes at a time, the named columns alone.

A file of a kilobyte may mean gigabytes: a dictionary holds a long text once however often it is meant, a run of equal
values takes a few bytes, and a page is unpacked whole. So the footer is asked first; strings are then read as
dictionaries, counted as if each row had its own, and decoded in slices of bounded size.
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
    unpacks_too_far,
    unreadable_parquet,
)
from stages.storage.sealed_folder import disk_error

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 65_536
# With DELTA_BYTE_ARRAY a text repeats the one before it at no cost, so that no size in the footer bounds its length.
_DELTA_BYTES = 8 << 20
_DELTA_ROWS = 8
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DECIMAL_BYTES = 32
_LEVEL_BYTES = 4
"""Definition and repetition level of a value in a list or an object, while it is decoded."""


def strings_in(config: object) -> frozenset[str]:
    """Every string among the values of a config; the columns that it names are some of them."""
    if isinstance(config, str):
        return frozenset((config,))
    if isinstance(config, Mapping):
        config = config.values()
    if not isinstance(config, Iterable):
        return frozenset()
    return frozenset().union(*(strings_in(value) for value in config))


def columns_among(path: Path, named: Collection[str]) -> list[str]:
    """Which columns the file has of those named, whatever their case and the blanks around them, in its order.

    Args:
        path: a Parquet file that `check_bounds` has looked at.
        named: names, most of which may be no columns; a dot leads into an object.
    """
    known = {_plain(part) for name in named for part in (name, name.partition(".")[0])}
    return [name for name in pq.read_schema(path).names if _plain(name) in known]


def _plain(name: str) -> str:
    return name.strip().casefold()


def write_parquet_rows(path: Path, where: str, columns: Collection[str] | None, into: Path) -> int:
    """Write the file's rows as an Arrow stream that `datasets` opens.

    Args:
        path: the Parquet file.
        where: the field that names it.
        columns: those to read; the others come out as nulls, so that they still have their names. None for all.
        into: the file to write.

    Returns:
        Number of rows; `into` holds none where it is 0.

    Raises:
        DataError: the file is damaged, or means too much for its size.
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
    """The rows of a file whose footer stays within the bounds."""

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
        """Of what is written."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The named columns, a few megabytes at a time, with strings as dictionaries.

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
        """Refuse what is too much by the footer alone: numbers of values, and sizes of pages."""
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
        """Bytes of a value in memory; of a string, those of its place in the dictionary."""
        column = self.metadata.schema.column(leaf)
        nested = _LEVEL_BYTES if column.max_repetition_level or "." in column.path else 0
        if column.logical_type.type == "DECIMAL":
            return _DECIMAL_BYTES + nested
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            return int(column.length) + nested
        return _WIDTHS.get(column.physical_type, 4) + nested

    def _as_dictionary(self, leaf: int) -> bool:
        """Whether pyarrow can read the leaf as a dictionary: a string, if none of it is in terms of the one before."""
        column = self.metadata.schema.column(leaf)
        return (
            column.physical_type == "BYTE_ARRAY"
            and column.logical_type.type != "DECIMAL"
            and not any(
                _is_delta(self.metadata.row_group(group).column(leaf)) for group in range(self.metadata.num_row_groups)
            )
        )

    def _rows_at_once(self, group: int) -> int:
        """Rows of a group that are decoded together."""
        chunks = self.metadata.row_group(group)
        size, most = 4 * chunks.num_rows, _BATCH_ROWS
        for leaf in self.leaves:
            chunk = chunks.column(leaf)
            size += max(chunk.num_values * self._width(leaf), chunk.total_uncompressed_size)
            if _is_delta(chunk):
                most = max(_DELTA_ROWS, _DELTA_BYTES // max(1, chunk.total_uncompressed_size))
        return max(1, min(most, _BATCH_ROWS, _BATCH_BYTES * chunks.num_rows // max(1, size)))

    def _bytes_of(self, batch: pa.RecordBatch, before: int) -> int:
        """What the rows take when each has texts of its own; refuses one that takes too much."""
        total = 0
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            total += (size := _bytes_of(column))
            if size > MAX_ROW_BYTES and (row := _long_row(column)) is not None:
                raise DataError(
                    f"{self.shown}: row {before + row + 1}: column {name!r} holds more than {MAX_ROW_BYTES >> 20} MB; "
                    "a row is one text: cut it into several rows"
                )
        return total


def _belongs(leaf: str, columns: list[str]) -> bool:
    """Whether a leaf's path leads through one of the columns, whose names may hold dots."""
    return any(leaf == name or leaf.startswith(f"{name}.") for name in columns)


def _is_delta(chunk: pq.ColumnChunkMetaData) -> bool:
    return "DELTA_BYTE_ARRAY" in chunk.encodings


def _without_columns(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(rows)], [""])


def _value_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries, which `datasets` cannot describe; pandas writes categories as such."""
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
    """Bytes of an array, each string of a dictionary counted as often as it is meant."""
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
    """Bytes of each value; the dictionary itself, of which a batch may mean little, is not gone through."""
    kind, dictionary = column.type.value_type, column.dictionary
    if not pa.types.is_string(kind) and not pa.types.is_binary(kind):
        return np.full(len(column), dictionary.nbytes // max(1, len(dictionary)))
    if not len(dictionary):
        return np.zeros(len(column), np.int64)
    offsets = np.frombuffer(dictionary.buffers()[1], np.int32)[dictionary.offset :]
    places = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
    lengths = offsets[places + 1].astype(np.int64) - offsets[places]
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return lengths


def _long_row(column: pa.Array) -> int | None:
    """The first row that takes more than it may, found by halves; None where none does."""
    if len(column) == 1:
        return 0
    half = len(column) // 2
    for start, part in ((0, column.slice(0, half)), (half, column.slice(half))):
        if _bytes_of(part) > MAX_ROW_BYTES and (row := _long_row(part)) is not None:
            return start + row
    return None


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of a few megabytes, each string counted as often as it is meant."""
    size = sum(map(_bytes_of, batch.columns))
    if size <= _BATCH_BYTES or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _decoded(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with each column of the schema; nulls where the batch has none of it."""
    given = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns = [
        given[field.name].cast(field.type) if field.name in given else pa.nulls(batch.num_rows) for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
