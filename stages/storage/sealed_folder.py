"""Files and folders that are there whole or not at all: written beside, synced to disk, renamed.

With size and SHA-256 of every file, so that what a disk did to them afterwards is found before they
are used. A process killed at any instant, a power cut or a full disk leaves what was there before.
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

from pydantic import ValidationError

from schemas.core.base import Frozen
from schemas.core.regular_files import open_regular, read_regular, special_kind
from schemas.results.manifest import FileEntry

log = logging.getLogger(__name__)

SEAL = "sealed.json"
_TEMPORARY = re.compile(r"^\.tmp-(\d+)-[0-9a-f]{8}-(.+)$")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_OLD_SECONDS = 60.0
_FOREIGN_OLD_SECONDS = 7 * 86400.0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 lower-case hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """As `sha256_of`, read anew only when the file has changed; for what nobody writes while it is used."""
    status = path.stat()
    return _digest_of_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=128)
def _digest_of_version(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_of(path)


def files_in(folder: Path) -> list[str]:
    """Paths of all files below `folder`, relative to it, with forward slashes, sorted."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
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
        if kind := special_kind(path):
            found.append(f"{name} is {kind}, not a regular file")
        elif not path.is_file():
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


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, each name on the disk before anything is put into it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


@contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """A fresh folder in `parent` to fill and rename; whatever goes wrong inside, it is removed."""
    make_folder(parent)
    folder = parent / temporary_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            remove(folder)


def disk_error(error: BaseException) -> OSError | None:
    """What the file system refused behind `error`; None where it has another reason."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_ERRORS:
            return seen
        if isinstance(seen, OSError) and "Not enough disk space" in str(seen):
            # `datasets` looks for room beforehand and says so without a number.
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seen = seen.__cause__ or seen.__context__
    return None


class Seal(Frozen):
    """Makes a folder of a cache whole; written last."""

    files: dict[str, FileEntry]
    """Every file but this one."""


def is_whole(folder: Path) -> bool:
    """Whether `folder` was made by `make_whole` and every byte of it is as it was then."""
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
    # Read anew only when a file has changed: each stage asks.
    try:
        return not differences(folder, Seal.model_validate_json(text).files, content=True)
    except (OSError, ValidationError):
        return False


def make_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` make the content of `folder`, which appears in one rename, sealed.

    Another process that was first with a whole one is as good.

    Raises:
        OSError: the file system refused; nothing unfinished is left.
    """
    sweep(folder.parent)
    with unfinished(folder.parent) as beside:
        fill(beside)
        seal = Seal(files=measure(beside))
        (beside / SEAL).write_text(seal.model_dump_json() + "\n", encoding="utf-8")
        sync_tree(beside)
        for _ in range(3):
            if is_whole(folder):
                return
            if os.path.lexists(folder):
                aside = folder.with_name(temporary_name())
                os.replace(folder, aside)
                remove(aside)
            try:
                os.replace(beside, folder)
                break
            except OSError as error:
                # Another process has renamed between the look and here: look again.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        sync(folder.parent)
