"""Rows that `datasets` reads from files, quietly and without asking the hub."""

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
from stages.data.files.read_request import Reading, rename_columns, renamed, renaming_remark
from stages.data.files.transcoding import encoding_of, open_utf8
from stages.data.formats.json_rows import json_problem, refuse_other_layouts, refuse_printed_values
from stages.storage.sealed_folder import disk_error

_BLOCK_BYTES = 10 << 20
"""That `datasets` reads of a JSON file at once."""
_WHOLE_BYTES = 128 << 20


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps `datasets` from drawing progress bars and logging while it reads."""
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
    """Keeps `datasets` from asking the hub anything, unless not `wanted`."""
    # For local files it reports a download; for an unreachable hub it waits half a minute before it
    # looks into its cache.
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if wanted:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def write_loaded_rows(path: Path, reading: Reading, where: str, into: Path) -> list[str]:
    """Have `datasets` read a file of JSON or of plain lines.

    Args:
        path: the file, packed or not.
        reading: what is asked of it.
        where: the field that names it.
        into: folder for its Arrow files, none of which is there afterwards where the file has no rows.

    Returns:
        What was read in one of several ways.

    Raises:
        DataError: the file is not right, with the line where there is one.
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
        # datasets lets through whatever its readers raise; each means that the file is not right.
        raise DataError(f"{where}: {path}: {_reason(plain, suffix, reading, error)}") from None
    if suffix in (".json", ".jsonl"):
        refuse_other_layouts(rows, reading, f"{where}: {path}")
        if plain.stat().st_size > _BLOCK_BYTES:
            refuse_printed_values(rows, plain, reading.columns, f"{where}: {path}")
    names = renamed(rows.column_names, reading.columns)
    if len(rows):
        for number, made in enumerate(rows.cache_files):
            part = into / f"{number:04d}.arrow"
            os.replace(made["filename"], part)
            if names:
                rename_columns(part, names)
    del rows
    shutil.rmtree(into / "prepared")
    if plain != path:
        plain.unlink()
    return [renaming_remark(names)] if names else []


def _rows_of(plain: Path, reading: Reading, suffix: str, cache: Path) -> Dataset:
    """The rows of a file as `datasets` reads it."""

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
    # The first ten megabytes decide what is in a column: 1 and 2, say, where 0.5 follows later, or nothing at all.
    return load(cache / "whole", chunksize=size)


def _reason(path: Path, suffix: str, reading: Reading, error: Exception) -> str:
    if FORMATS[suffix] == "json" and (problem := json_problem(path, reading)):
        return problem
    cause = printable(" ".join(str(error.__cause__ or error).split()), 300)
    # What datasets says of a file with a header or a schema and nothing else.
    if "corresponds to no data" in cause:
        return "has no rows; give a file that has some"
    return f"cannot be read as {suffix} ({cause}); mend it"
