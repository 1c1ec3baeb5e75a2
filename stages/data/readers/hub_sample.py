"""A sample of a hub data set that is too large to store: rows of some of its files, fetched one file at a time.

A shuffle buffer would take the first rows of the first files, and its content would be lost with an interrupted
process. Here the seed chooses up to 64 files, and the sample takes the first rows of each, as evenly as their lengths
allow. Each file's rows are stored as soon as they are fetched, whole or not at all, so an interrupted sample continues
with the next file and is the same in the end. It depends only on the commit, the limits and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from huggingface_hub import constants

from schemas.core.base import digest_of
from schemas.core.errors import DataError, ServiceError
from schemas.core.wording import printable
from schemas.data.corpus import HubText
from stages.data.readers.dataset_files import quiet
from stages.data.readers.files import check_column
from stages.data.readers.hub import LOADING_ERRORS, cause_of, hub_commit, no_rows
from stages.storage.format_versions import SAMPLE_VERSION
from stages.storage.sealed_folder import disk_error, is_whole, make_whole

MOST_FILES = 64
_ROWS_AT_ONCE = 1000
_ROWS, _DONE = "rows.arrow", "done"


def load_sample(source: HubText, columns: list[str], cache: Path, where: str, *, seed: int) -> Dataset:
    """Return the sample of a hub data set, and fetch the part of it that is not in the cache.

    Args:
        source: the data set and the size of the sample.
        columns: that of the text first.
        cache: folder that keeps the sample.
        where: begins error messages.
        seed: chooses the files.

    Raises:
        DataError: the hub is out of reach, or the data set has no such config, split or column.
    """
    revision = hub_commit(source.id, source.revision) or source.revision
    named = source.model_dump(mode="json", exclude={"revision", "weight", "document", "column"})
    identity = {**named, "commit": revision, "columns": columns, "seed": seed}
    folder = cache / "samples" / digest_of({**identity, "version": SAMPLE_VERSION})[:32]
    if not is_whole(folder / _DONE):
        stream = _open(source, revision, where)
        for column in sorted(columns) if stream.column_names is not None else ():
            check_column(stream.column_names, column, where)
        _fetch(stream.select_columns(columns), source, columns, folder, where, seed)
    files = sorted(folder.glob(f"[0-9]*/{_ROWS}"))
    parts = [Dataset.from_file(str(file)) for file in files]
    if not sum(map(len, parts)):
        raise no_rows(where)
    return datasets.concatenate_datasets(parts)


def _open(source: HubText, revision: str, where: str) -> IterableDataset:
    try:
        with quiet():
            return datasets.load_dataset(
                source.id, source.config, split=source.split, revision=revision, streaming=True
            )
    except LOADING_ERRORS as error:
        raise DataError(
            f"{where}: no sample of it is in the cache, and it cannot be fetched from {constants.ENDPOINT} "
            f"({cause_of(error)}); check id, config and split, or run where the hub can be reached; with a commit as "
            "revision, a cached sample is read without the hub"
        ) from None


def _fetch(stream: IterableDataset, source: HubText, columns: list[str], folder: Path, where: str, seed: int) -> None:
    """Store each chosen file's rows in its own folder, in the order of the draw; then mark the sample complete."""
    number = stream.num_shards
    order = np.random.Generator(np.random.PCG64(seed)).permutation(number)
    chosen = min(number, MOST_FILES)
    rows_left = source.max_rows or math.inf
    bytes_left = (source.max_megabytes or math.inf) * 1e6
    for position, shard in enumerate(order.tolist()):
        if rows_left <= 0 or bytes_left <= 0:
            break
        # Later files make up for a short one.
        share = max(1, chosen - position)
        kept = folder / f"{position:05d}"
        if not is_whole(kept):
            most_rows = math.ceil(rows_left / share) if rows_left < math.inf else rows_left
            part = stream.shard(num_shards=number, index=shard)
            make_whole(kept, partial(FileSample(columns, most_rows, bytes_left / share).write, part, where))
        for rows, size in _sizes(kept / _ROWS):
            rows_left -= rows
            bytes_left -= size
    make_whole(folder / _DONE, lambda beside: None)


def _sizes(file: Path) -> Iterator[tuple[int, int]]:
    """Yield the rows, and the bytes of their text, of each record batch."""
    with pa.OSFile(str(file)) as stored:
        for batch in pa.ipc.open_stream(stored):
            yield batch.num_rows, pc.sum(pc.binary_length(batch.column(0))).as_py() or 0


@dataclass(frozen=True)
class FileSample:
    """Limits of the sample from one file."""

    columns: list[str]
    most_rows: float
    most_bytes: float

    def write(self, part: IterableDataset, where: str, into: Path) -> None:
        """Write the file's rows until one of the limits is reached.

        Raises:
            DataError: a column holds something other than text.
            ServiceError: the connection was lost.
        """
        schema = pa.schema([(column, pa.string()) for column in self.columns])
        rows = size = 0
        with pa.OSFile(str(into / _ROWS), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for batch in self._batches(part, schema, where):
                sizes = np.cumsum(pc.fill_null(pc.binary_length(batch.column(0)), 0).to_numpy())
                fitting = int(np.searchsorted(sizes, self.most_bytes - size)) + 1
                batch = batch.slice(0, int(min(fitting, self.most_rows - rows)))
                writer.write_batch(batch)
                rows += len(batch)
                size += int(sizes[len(batch) - 1])
                if rows >= self.most_rows or size >= self.most_bytes:
                    return

    def _batches(self, part: IterableDataset, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
        try:
            for batch in part.iter(_ROWS_AT_ONCE):
                yield pa.record_batch([pa.array(batch[c], pa.string()) for c in self.columns], schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"{where}: columns {', '.join(self.columns)} hold something other than text ({error}); name the "
                "column of text"
            ) from None
        except Exception as error:
            if (refused := disk_error(error)) is not None:
                raise refused from None
            # Each file system and HTTP client has its own exceptions.
            raise ServiceError(
                f"{where}: the connection to the hub was lost while a sample was fetched "
                f"({printable(str(error), 200)}); run the same command again: it continues with the same file"
            ) from None
