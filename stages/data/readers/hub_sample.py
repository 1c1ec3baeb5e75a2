"""A sample of a hub data set that is too large to keep: rows of some of its files, fetched a file at a time.

A shuffle buffer would take the first rows of the first files, and what it held would be lost with an interrupted
process. Here up to 64 files are chosen by the seed, and the rows that are wanted are taken from their beginnings, the
same number from each as far as they go. Each file's rows are kept as soon as they are there, whole or not at all, so an
interrupted sample goes on with the next file and is the same in the end. It depends on the commit, the limits and the
seed alone.
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
from stages.data.readers.hub import hub_commit
from stages.storage.sealed_folder import disk_error, is_whole, make_whole

# Raise when the same commit, limits and seed should give other rows.
SAMPLE_VERSION = 1
MOST_FILES = 64
_ROWS_AT_ONCE = 1000
_ROWS, _DONE = "rows.arrow", "done"


def load_sample(source: HubText, columns: list[str], cache: Path, where: str, *, seed: int) -> Dataset:
    """The sample of a hub data set, fetched as far as it is not there yet.

    Args:
        source: the data set and the size of the sample.
        columns: that of the text first.
        cache: where the sample is kept.
        where: how messages name it.
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
        raise DataError(f"{where}: has no rows; take another split")
    return datasets.concatenate_datasets(parts)


def _open(source: HubText, revision: str, where: str) -> IterableDataset:
    try:
        with quiet():
            return datasets.load_dataset(
                source.id, source.config, split=source.split, revision=revision, streaming=True
            )
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = " ".join(str(error).split())[:300]
        raise DataError(
            f"{where}: no sample of it is in the cache, and it cannot be fetched from {constants.ENDPOINT} ({cause}); "
            "check id, config and split, or run where the hub is in reach; a sample is found again without the hub "
            "where revision is a commit"
        ) from None


def _fetch(stream: IterableDataset, source: HubText, columns: list[str], folder: Path, where: str, seed: int) -> None:
    """Each chosen file's rows into a folder of its own, in the order of the draw; then the mark that all are there."""
    number = stream.num_shards
    order = np.random.Generator(np.random.PCG64(seed)).permutation(number)
    chosen = min(number, MOST_FILES)
    rows_left = source.max_rows or math.inf
    bytes_left = (source.max_megabytes or math.inf) * 1e6
    for place, shard in enumerate(order.tolist()):
        if rows_left <= 0 or bytes_left <= 0:
            break
        # What a short file has too little of, later ones give more of.
        share = max(1, chosen - place)
        kept = folder / f"{place:05d}"
        if not is_whole(kept):
            taken = Taken(
                columns, math.ceil(rows_left / share) if rows_left < math.inf else rows_left, bytes_left / share
            )
            part = stream.shard(num_shards=number, index=shard)
            make_whole(kept, partial(taken.write, part, where))
        for rows, size in _sizes(kept / _ROWS):
            rows_left -= rows
            bytes_left -= size
    make_whole(folder / _DONE, lambda beside: None)


def _sizes(file: Path) -> Iterator[tuple[int, int]]:
    """Rows, and bytes of their text, of each record batch."""
    with pa.OSFile(str(file)) as stored:
        for batch in pa.ipc.open_stream(stored):
            yield batch.num_rows, pc.sum(pc.binary_length(batch.column(0))).as_py() or 0


@dataclass(frozen=True)
class Taken:
    """What is taken of one file."""

    columns: list[str]
    most_rows: float
    most_bytes: float

    def write(self, part: IterableDataset, where: str, into: Path) -> None:
        """Write rows of the file until one of the limits is reached.

        Raises:
            DataError: a column holds something else than text.
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
                f"{where}: columns {', '.join(self.columns)} hold something else than text ({error}); name the text's "
                "column"
            ) from None
        except Exception as error:
            if (refused := disk_error(error)) is not None:
                raise refused from None
            # Each file system and HTTP client has its own way to say so.
            raise ServiceError(
                f"{where}: the hub was lost while a sample was fetched ({printable(str(error), 200)}); run the same "
                "command again, it goes on with the file that it was at"
            ) from None
