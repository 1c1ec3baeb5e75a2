"""Small Parquet files and saved data sets that decompress to gigabytes, one for each mechanism."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = 500
"""Number of equal texts of a megabyte each; a small file may decompress to 64 MB."""


def _texts() -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(TEXTS, np.int32)), pa.array(["x" * 1_000_000]))


def _lists(values: pa.Array, size: int = 1) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32)), values)


def _objects() -> pa.StructArray:
    return pa.StructArray.from_arrays([_texts(), pa.array([1] * TEXTS)], ["text", "number"])


def _map() -> pa.MapArray:
    offsets = pa.array(np.arange(TEXTS + 1, dtype=np.int32))
    return pa.MapArray.from_arrays(offsets, pa.array(["key"] * TEXTS), _texts())


def _zeros(number: int, kind: Any = np.int8) -> pa.Array:
    return pa.array(np.zeros(number, kind))


COLUMNS: dict[str, Callable[[], pa.Array]] = {
    "rows": lambda: pa.nulls(20_000_000, pa.string()),
    "text": _texts,
    "page": lambda: pa.array(["z" * 200_000_000]),
    "large string": lambda: _texts().cast(pa.large_string()),
    "binary": lambda: pa.array([b"x" * 1_000_000] * 100, pa.large_binary()),
    "lists of texts": lambda: _lists(_texts()),
    "one list of texts": lambda: _lists(_texts(), TEXTS),
    "lists of lists": lambda: _lists(_lists(_texts())),
    "objects": _objects,
    "lists of objects": lambda: _lists(_objects()),
    "maps": _map,
    "a list of zeros": lambda: _lists(_zeros(100_000_000), 100_000_000),
    "lists of decimals": lambda: _lists(_zeros(5_000_000, np.int64).cast(pa.decimal128(38, 0))),
    "empty lists": lambda: pa.ListArray.from_arrays(_zeros(30_000_001, np.int32), pa.array([], pa.string())),
    "fixed size": lambda: pa.array([bytes(100_000)] * 2000, pa.binary(100_000)),
    "many groups": _texts,
    "prefixes": lambda: pa.array(["x" * 1_000_000] * 100),
}
"""Column `text_a` of each bomb."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "page": {"use_dictionary": False},
    "many groups": {"row_group_size": 1},
    "prefixes": {"use_dictionary": False, "column_encoding": {"text_a": "DELTA_BYTE_ARRAY"}},
}


@functools.cache
def parquet_bomb(kind: str, *, beside: bool = False) -> bytes:
    """Return a small file that decompresses to far more than memory should hold.

    Args:
        kind: one of `COLUMNS`.
        beside: the bomb is a column that no task names, beside two normal ones.
    """
    column = COLUMNS[kind]()
    labels = pa.array(["no", "yes"] * (len(column) // 2) + ["no"] * (len(column) % 2))
    table = pa.table({"text_a": column, "label": labels})
    if beside:
        texts = pa.array(["good", "bad"] * (len(column) // 2) + ["bad"] * (len(column) % 2))
        table = pa.table({"z": column, "text_a": texts, "label": labels})
    options = {"compression": "zstd", "row_group_size": 1 << 30, **_OPTIONS.get(kind, {})}
    if beside:
        options.pop("column_encoding", None)
    target = io.BytesIO()
    pq.write_table(table, target, **options)
    return target.getvalue()


def views_of_one_text(rows: int, text: bytes) -> pa.Array:
    """Return a column of views of the same bytes."""
    view = len(text).to_bytes(4, "little") + text[:4] + bytes(8)
    buffers = [None, pa.py_buffer(view * rows), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string_view(), rows, buffers)


def save_columns(folder: Path, columns: dict[str, pa.Array]) -> None:
    """Save columns in the layout of `datasets.save_to_disk`, including types that it never writes."""
    folder.mkdir()
    table = pa.table(columns)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
