"""Files that are opened only if they are files: a FIFO waits for ever, and a device may never end."""

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
    """What a path leads to that is neither a file nor a folder, such as `a FIFO`; None for all else, and for nothing.

    Opening such a thing may wait for ever, and reading it may never end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((name for is_kind, name in _SPECIAL if is_kind(mode)), None)


def check_regular(path: Path, place: str) -> None:
    """Refuse a FIFO, a socket or a device, before it is opened.

    Args:
        path: what is to be read; a folder, or nothing there, is another question.
        place: what messages begin with: the field that names it.

    Raises:
        DataError: it is not a regular file.
    """
    if kind := special_kind(path):
        raise DataError(f"{place}: {path} is {kind}, not a regular file; give a regular file")


def open_regular(path: Path) -> BufferedReader:
    """The file, opened to be read; never waits for a writer.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    # Without waiting, since what the path leads to may have been changed since it was looked at.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        return file.read()
