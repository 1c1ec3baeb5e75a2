"""Atomic files and folders: written under a temporary name, synced to disk, renamed, and verified by SHA-256.

A process killed at any instant, a power cut or a full disk leaves the previous content in place. Size and SHA-256 of
every file are kept, so that damage is detected before a file is used.
"""

from __future__ import annotations

import errno
import functools
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

from pydantic import BaseModel, ValidationError

from schemas.core.base import Frozen
from schemas.core.regular_files import open_regular, read_regular, special_kind
from schemas.results.manifest import FileEntry

log = logging.getLogger(__name__)

SEAL = "sealed.json"
MANIFEST, MANIFEST_SEAL = "manifest.json", "manifest.sha256"
_TEMPORARY = re.compile(r"^\.tmp-(\d+)-[0-9a-f]{8}-(.+)$")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_OLD_SECONDS = 60.0
_FOREIGN_OLD_SECONDS = 7 * 86400.0


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 lower-case hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Return `sha256_of` from a cache keyed by path, size and modification time; for files that are never rewritten."""
    status = path.stat()
    return _digest_of_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=128)
def _digest_of_version(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_of(path)


def files_in(folder: Path) -> list[str]:
    """Return the sorted paths of all files below `folder`, relative to it, with forward slashes."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    )


def measure(folder: Path) -> dict[str, FileEntry]:
    """Return size and SHA-256 of every file below `folder`, by relative path."""
    return {
        name: FileEntry(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
        for name in files_in(folder)
    }


def differences(folder: Path, files: dict[str, FileEntry], *, content: bool) -> list[str]:
    """Describe every missing or damaged file below `folder`; empty if all files match.

    Args:
        folder: folder of the files.
        files: expected size and SHA-256 by relative path.
        content: compare SHA-256 too; sizes alone need no reading.
    """
    problems = []
    for name, entry in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append(f"{name} is listed in its manifest but points outside the folder")
            continue
        path = folder / name
        if kind := special_kind(path):
            problems.append(f"{name} is {kind}, not a regular file")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif (size := path.stat().st_size) != entry.size:
            actual, expected = _shown_sizes(size, entry.size)
            problems.append(f"{name} has {actual}, its manifest says {expected}")
        elif content and sha256_of(path) != entry.sha256:
            problems.append(f"{name} has other content than its manifest lists (SHA-256 differs)")
    return problems


def _shown_sizes(actual: int, expected: int) -> tuple[str, str]:
    in_mb = f"{actual / 1e6:.0f} MB", f"{expected / 1e6:.0f} MB"
    return in_mb if in_mb[0] != in_mb[1] else (f"{actual:,} bytes", f"{expected:,} bytes")


def seal_of(content: bytes, name: str = MANIFEST) -> str:
    """Return the line for `sha256sum -c`: SHA-256 of a file's content, and its name."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def is_sealed(seal: Path, content: bytes, name: str = MANIFEST) -> bool:
    """Return whether the file `seal` belongs to this content of the file `name`; False if there is no seal."""
    try:
        return read_regular(seal) == seal_of(content, name).encode("utf-8")
    except FileNotFoundError:
        return False


def write_manifest(folder: Path, manifest: BaseModel) -> None:
    """Write manifest.json and the seal that covers it; the manifest is written last."""
    text = (manifest.model_dump_json(indent=1) + "\n").encode("utf-8")
    (folder / MANIFEST_SEAL).write_text(seal_of(text), encoding="utf-8")
    (folder / MANIFEST).write_bytes(text)


def _machine() -> str:
    # Containers may share a host name but not a process table; the pid namespace identifies them.
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}.{namespace}"


def temporary_name() -> str:
    """Return a name for an unfinished file or folder that identifies its process and host."""
    return f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{_machine()}"


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sweep(folder: Path) -> list[Path]:
    """Remove unfinished files and folders of dead processes from `folder`; return their paths.

    Leftovers of this host are removed if their process is dead and they are older than a minute; those of another host
    or container, whose processes are not visible, after a week.
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
        ours = match[2] == _machine()
        if (ours and not _process_lives(int(match[1])) and age > _OLD_SECONDS) or (
            not ours and age > _FOREIGN_OLD_SECONDS
        ):
            remove(path)
            removed.append(path)
            log.info("removed %s, left unfinished by a process that no longer runs", path)
    return removed


def remove(path: Path) -> None:
    """Remove a file or folder; a failure is only logged, since it costs nothing but space."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("could not remove %s (%s); it may be deleted by hand", path, error.strerror)


def sync(path: Path) -> None:
    """Flush a file or folder to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no fsync of a folder; there a rename is durable or nothing is.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush `folder` and every file and folder below it to disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, each flushed to disk before anything is put into it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


@contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """Yield a fresh folder in `parent` to fill and rename; it is removed unless the block renames it."""
    make_folder(parent)
    folder = parent / temporary_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            remove(folder)


def disk_error(error: BaseException) -> OSError | None:
    """Return the file-system error that caused `error`; None if it has another cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_ERRORS:
            return seen
        if isinstance(seen, OSError) and "Not enough disk space" in str(seen):
            # `datasets` checks the free space itself and raises without an errno.
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seen = seen.__cause__ or seen.__context__
    return None


class Seal(Frozen):
    """Contents of sealed.json, which marks a cache folder as whole; written last."""

    files: dict[str, FileEntry]
    """Every file except sealed.json."""


def is_whole(folder: Path) -> bool:
    """Return whether `folder` was written by `make_whole` and has not changed since."""
    try:
        text = read_regular(folder / SEAL).decode("utf-8")
        versions = tuple(
            (name, status.st_size, status.st_mtime_ns)
            for name in files_in(folder)
            for status in ((folder / name).stat(),)
        )
    except (OSError, ValueError):
        return False
    return _as_sealed(folder, text, versions)


@functools.lru_cache(maxsize=256)
def _as_sealed(folder: Path, text: str, _versions: tuple[tuple[str, int, int], ...]) -> bool:
    # Cached by file versions, because every stage asks.
    try:
        return not differences(folder, Seal.model_validate_json(text).files, content=True)
    except (OSError, ValidationError):
        return False


def make_whole(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write the content of `folder`, seal it, and make it appear in one rename.

    A whole folder that another process made first is kept.

    Raises:
        OSError: the file system refused; nothing unfinished is left.
    """
    sweep(folder.parent)
    with unfinished(folder.parent) as beside:
        fill(beside)
        seal = Seal(files=measure(beside))
        (beside / SEAL).write_text(seal.model_dump_json() + "\n", encoding="utf-8")
        sync_tree(beside)
        publish(beside, folder, lambda existing: not is_whole(existing) and move_away(existing))


def move_away(folder: Path) -> bool:
    """Rename a folder, so that its name is free at once, and remove it; return True."""
    aside = folder.with_name(temporary_name())
    os.replace(folder, aside)
    remove(aside)
    return True


def publish(folder: Path, target: Path, make_way: Callable[[Path], bool]) -> bool:
    """Rename a finished folder to `target` and flush that to disk; return whether it is there now.

    Args:
        folder: a folder on the same disk.
        target: its new path.
        make_way: moves away what is at `target`; returns False to keep it instead of `folder`.

    Raises:
        OSError: the file system refused, or another process (EBUSY) kept renaming its folders to `target`.
    """
    for _ in range(3):
        if os.path.lexists(target) and not make_way(target):
            return False
        try:
            os.replace(folder, target)
        except OSError as error:
            # Another process renamed its folder after the check above: check again.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            sync(target.parent)
            return True
    raise OSError(errno.EBUSY, "another process keeps writing it", str(target))
