"""What the store needs beside `stages/storage/sealed_folder.py`: errors of the file system in our words, and JSON.

Every write of the store goes through these two modules, so that a process killed at any instant, or
a full disk, leaves what was there before. They know nothing of stages or checkpoints, and never
read anything that could execute.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from schemas.core.errors import DistillError, StoreError
from stages.storage.sealed_folder import (
    differences,
    disk_error,
    files_in,
    is_sealed,
    make_folder,
    measure,
    remove,
    seal_of,
    sha256_of,
    sweep,
    sync,
    sync_tree,
    temporary_name,
    unfinished,
    write_manifest,
)

__all__ = [
    "differences",
    "disk_errors",
    "files_in",
    "is_sealed",
    "make_folder",
    "measure",
    "remove",
    "seal_of",
    "sha256_of",
    "storage_errors",
    "sweep",
    "sync",
    "sync_tree",
    "temporary_name",
    "unfinished",
    "write_file",
    "write_json",
    "write_manifest",
]


@contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turns a failure of the file system inside into a StoreError with `place` and a remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise _store_error(place, error.errno, error.strerror or str(error)) from error
    except SafetensorError as error:
        # safetensors reports a full disk by text alone: "... I/O error: ... (os error 28)".
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise
        code = int(match[1])
        raise _store_error(place, code, os.strerror(code)) from error


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """As `storage_errors`, for a block that does more than write: turns only what a full or failing disk refused."""
    try:
        yield
    except DistillError:
        raise
    except Exception as error:  # libraries wrap what the system told them
        refused = disk_error(error)
        if refused is None:
            raise
        where = Path(str(refused.filename)).parent if refused.filename else place
        raise _store_error(where, refused.errno, refused.strerror or str(refused)) from error


def _store_error(place: Path, code: int | None, reason: str) -> StoreError:
    elsewhere = "give another folder with --store"
    remedies: dict[int | None, str] = {
        errno.ENOSPC: f"the disk is full; make room there or {elsewhere}",
        errno.EDQUOT: f"your disk quota is used up; make room there or {elsewhere}",
        errno.EFBIG: f"the file is larger than allowed; lift that limit (ulimit -f) or {elsewhere}",
        errno.EROFS: f"it is read-only; {elsewhere}",
        errno.EACCES: f"it is not yours to write; change its owner or {elsewhere}",
        errno.EPERM: f"it is not yours to write; change its owner or {elsewhere}",
        errno.EIO: f"the disk reports errors; check it, or {elsewhere}",
    }
    remedy = remedies.get(code, f"check the disk, or {elsewhere}")
    return StoreError(f"cannot write to {place} ({reason}): {remedy}; what was finished before is untouched")


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Makes `path` by `write`, replacing an older one in one step.

    Raises:
        StoreError: the file system refused; an older `path` is as it was.
    """
    with storage_errors(path.parent):
        make_folder(path.parent)
        beside = path.parent / temporary_name()
        try:
            write(beside)
            sync(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)


def write_json(path: Path, value: BaseModel) -> None:
    """Writes a model as JSON, in one step; raises StoreError and leaves an older file as it was."""
    text = value.model_dump_json(indent=1) + "\n"
    write_file(path, lambda beside: _put(beside, text))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
