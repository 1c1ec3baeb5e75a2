"""Files that are there whole or not at all: written beside, synced to disk, renamed.

Every write of the store goes through this module, so that a process killed at any instant, or a
full disk, leaves what was there before. It knows nothing of stages or checkpoints, and never
reads anything that could execute.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from schemas.errors import StoreError
from schemas.results import FileEntry

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
_TEMPORARY = re.compile(r"^\.tmp-(\d+)-[0-9a-f]{8}-(.+)$")
_OLD_SECONDS = 60.0
_FOREIGN_OLD_SECONDS = 7 * 86400.0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def files_in(folder: Path) -> list[str]:
    """Paths of all files below `folder`, relative to it, with forward slashes, sorted."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )


def measure(folder: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file below `folder`, by relative path."""
    return {
        name: FileEntry(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
        for name in files_in(folder)
    }


def differences(folder: Path, files: dict[str, FileEntry], *, content: bool) -> list[str]:
    """What is missing or damaged below `folder`, one line a file; empty when all is as listed.

    Args:
        folder: where the files are.
        files: what they should be.
        content: compare SHA-256 too; otherwise only sizes, which costs no reading.
    """
    found = []
    for name, entry in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            found.append(f"{name} is listed in its manifest but points outside the folder")
            continue
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif (size := path.stat().st_size) != entry.size:
            given, right = _sizes(size, entry.size)
            found.append(f"{name} has {given}, its manifest says {right}")
        elif content and sha256_of(path) != entry.sha256:
            found.append(f"{name} has other content than its manifest says (SHA-256 differs)")
    return found


def _sizes(given: int, right: int) -> tuple[str, str]:
    in_mb = tuple(f"{size / 1e6:.0f} MB" for size in (given, right))
    if in_mb[0] != in_mb[1]:
        return in_mb[0], in_mb[1]
    return f"{given:,} bytes", f"{right:,} bytes"


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
    return StoreError(
        f"cannot write to {place} ({reason}): {remedy}; what was finished before is untouched"
    )


def _here() -> str:
    # Containers may share a host name but not a process table; the pid namespace tells them apart.
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}.{namespace}"


def temporary_name() -> str:
    """A name for something unfinished that says which process, on which host, is making it."""
    return f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{_here()}"


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sweep(folder: Path) -> list[Path]:
    """Removes what dead processes left unfinished in `folder`; returns what was removed.

    A leftover of this host goes when its process is dead and it is older than a minute; one of
    another host or container, whose processes cannot be seen from here, after a week.
    """
    removed = []
    for path in folder.glob(".tmp-*"):
        match = _TEMPORARY.match(path.name)
        try:
            age = time.time() - path.lstat().st_mtime
        except OSError:
            continue  # another process swept it first
        if match is None:
            continue
        ours = match[2] == _here()
        if (ours and not _process_lives(int(match[1])) and age > _OLD_SECONDS) or (
            not ours and age > _FOREIGN_OLD_SECONDS
        ):
            remove(path)
            removed.append(path)
            log.info("removed %s, left unfinished by a process that is gone", path)
    return removed


def remove(path: Path) -> None:
    """Removes a file or folder if it can.

    A failure is only logged, since it costs space and nothing else.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("could not remove %s (%s); it may be deleted by hand", path, error.strerror)


def sync(path: Path) -> None:
    """Brings a file or folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no fsync of a folder; there the rename itself is
        # durable or nothing is.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Brings every file and folder below `folder`, and `folder` itself, to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


@contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """A fresh folder in `parent` to fill and rename; whatever goes wrong inside, it is removed."""
    folder = parent / temporary_name()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if folder.exists():
            remove(folder)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Makes `path` by `write`, replacing an older one in one step.

    Raises:
        StoreError: the file system refused; an older `path` is as it was.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
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
