"""Rows that `datasets` reads from JSON and plain text files, quietly and without asking the hub."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from datasets import Dataset
from huggingface_hub import constants

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.compression import packing_of
from stages.data.files.file_names import FORMATS, file_format
from stages.data.files.limits import CHUNK_BYTES
from stages.data.files.read_request import Reading
from stages.data.files.transcoding import encoding_of, open_utf8
from stages.data.formats.json_rows import json_problem, refuse_other_layouts, refuse_printed_values
from stages.storage.sealed_folder import disk_error

_BLOCK_BYTES = 10 << 20
"""Bytes of a JSON file that `datasets` reads at once."""
_WHOLE_BYTES = 128 << 20


@contextmanager
def quiet() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars and logging while it reads."""
    shown, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Keep `datasets` from asking the hub anything, unless `wanted` is false."""
    # It would report a download of local files, and wait half a minute for an unreachable hub before it looks into
    # its cache.
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if wanted:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def write_loaded_rows(path: Path, reading: Reading, where: str, into: Path) -> None:
    """Write the rows of a file of JSON or of plain lines, as `datasets` reads them.

    Args:
        path: the file, compressed or not.
        reading: the request.
        where: the field that names the file.
        into: folder for the Arrow files; none is written if the file has no rows.

    Raises:
        DataError: the file is wrong; with the line where there is one.
        OSError: the disk refused.
    """
    suffix = file_format(path, where)
    plain, encoding = path, encoding_of(path, reading.format.encoding)
    if packing_of(path.name) or encoding != "utf-8":
        plain = into / f"plain{suffix}"
        with open_utf8(path, encoding) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK_BYTES)
    try:
        rows = _rows_of(plain, reading, suffix, into / "prepared")
    except Exception as error:
        if (refused := disk_error(error)) is not None:
            raise refused from None
        # datasets lets through whatever its readers raise; each means that the file is wrong.
        raise DataError(f"{where}: {path}: {_reason(plain, suffix, reading, error)}") from None
    if suffix in (".json", ".jsonl"):
        refuse_other_layouts(rows, reading, f"{where}: {path}")
        if plain.stat().st_size > _BLOCK_BYTES:
            refuse_printed_values(rows, plain, reading.columns, f"{where}: {path}")
    for number, written in enumerate(rows.cache_files if len(rows) else ()):
        os.replace(written["filename"], into / f"{number:04d}.arrow")
    del rows
    shutil.rmtree(into / "prepared")
    if plain != path:
        plain.unlink()


def _rows_of(plain: Path, reading: Reading, suffix: str, cache: Path) -> Dataset:
    """Return the rows of a file as `datasets` reads it."""

    def load(folder: Path, **options: int) -> Dataset:
        with quiet(), offline():
            return datasets.load_dataset(
                FORMATS[suffix],
                data_files=[glob.escape(str(plain.absolute()))],
                split="train",
                cache_dir=str(folder),
                **options,
            )

    try:
        return load(cache)
    except Exception:
        size = plain.stat().st_size
        is_cut = FORMATS[suffix] == "json" and _BLOCK_BYTES < size <= _WHOLE_BYTES
        if not is_cut or json_problem(plain, reading):
            raise
    # The first ten megabytes decided a column's type, such as whole numbers where 0.5 follows later, or nulls.
    return load(cache / "whole", chunksize=size)


def _reason(path: Path, suffix: str, reading: Reading, error: Exception) -> str:
    if FORMATS[suffix] == "json" and (problem := json_problem(path, reading)):
        return problem
    cause = printable(" ".join(str(error.__cause__ or error).split()), 300)
    # datasets says so of a file with a header or a schema and nothing else.
    if "corresponds to no data" in cause:
        return "has no rows; give a file that has some"
    return f"cannot be read as {suffix} ({cause}); correct the file"
