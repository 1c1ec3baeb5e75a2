"""Errors of the file system as StoreErrors with a remedy, and files that are replaced in one step.

Together with `stages/storage/sealed_folder.py` this is how the store writes: a process killed at any instant, or a full
disk, leaves the previous content in place. Neither module reads anything that could execute.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.core.errors import DistillError, StoreError
from stages.storage.sealed_folder import disk_error, make_folder, sync, temporary_name

_ELSEWHERE = "give another folder with --store"
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: f"the disk is full; make room there or {_ELSEWHERE}",
    errno.EDQUOT: f"your disk quota is used up; make room there or {_ELSEWHERE}",
    errno.EFBIG: f"the file is larger than allowed; lift that limit (ulimit -f) or {_ELSEWHERE}",
    errno.EROFS: f"it is read-only; {_ELSEWHERE}",
    errno.EACCES: f"it is not yours to write; change its owner or {_ELSEWHERE}",
    errno.EPERM: f"it is not yours to write; change its owner or {_ELSEWHERE}",
    errno.EIO: f"the disk reports errors; check it, or {_ELSEWHERE}",
    errno.EBUSY: "stop the other process and run again",
}


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a failure of the file system into a StoreError that names `folder` and a remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise _store_error(folder, error.errno, error.strerror or str(error)) from error
    except SafetensorError as error:
        # safetensors reports a full disk by text alone: "... I/O error: ... (os error 28)".
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None:
            raise
        code = int(match[1])
        raise _store_error(folder, code, os.strerror(code)) from error


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn only errors of a full or failing disk into StoreErrors, for a block that does more than write."""
    try:
        yield
    except DistillError:
        raise
    except Exception as error:  # libraries wrap the error of the system
        cause = disk_error(error)
        if cause is None:
            raise
        where = Path(str(cause.filename)).parent if cause.filename else folder
        raise _store_error(where, cause.errno, cause.strerror or str(cause)) from error


def _store_error(folder: Path, code: int | None, reason: str) -> StoreError:
    remedy = _REMEDIES.get(code, f"check the disk, or {_ELSEWHERE}")
    return StoreError(f"cannot write to {folder} ({reason}): {remedy}; what was finished before is untouched")


def write_file(path: Path, content: bytes) -> None:
    """Write a file, replacing an older one in one step.

    Raises:
        StoreError: the file system refused; an older file is unchanged.
    """
    with storage_errors(path.parent):
        make_folder(path.parent)
        beside = path.parent / temporary_name()
        try:
            beside.write_bytes(content)
            sync(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)
