"""Regular files only: opening a FIFO may block forever, and reading a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from schemas.core.errors import DataError

_SPECIAL = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special_kind(path: Path) -> str | None:
    """Return the kind of a special file, such as `a FIFO`; None for files, folders and missing paths."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((name for is_kind, name in _SPECIAL if is_kind(mode)), None)


def check_regular(path: Path, field: str) -> None:
    """Refuse a FIFO, a socket or a device before it is opened.

    Args:
        path: the path to read; folders and missing paths pass.
        field: the field that holds the path, for messages.

    Raises:
        DataError: the path leads to a special file.
    """
    if kind := special_kind(path):
        raise DataError(f"{field}: {path} is {kind}, not a regular file; give a regular file")


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, without waiting for a writer.

    Raises:
        OSError: the path cannot be opened, or is not a regular file.
    """
    # Non-blocking, since the path may have been replaced since it was checked.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: the path cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        return file.read()
