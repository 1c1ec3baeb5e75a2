"""Checks of paths from the user, before they are used."""

from __future__ import annotations

import os
import re
from pathlib import Path

from schemas.core.errors import ConfigError
from schemas.core.wording import shown_value

REMOTE_NOTE = "remote.txt"
"""File of a local copy that holds the address of the object store."""
# One slash if the address was normalised as a path.
_ADDRESS = re.compile(r"^(s3|gs|az|abfs|file|memory):/{1,3}(.*)$")


def remote_address(text: str) -> str | None:
    """Return the address of an object store, such as `s3://bucket/path`; None for a path of this machine."""
    match = _ADDRESS.match(text)
    if match is None:
        return None
    scheme, path = match[1], match[2].strip("/")
    return f"{scheme}:///{path}" if scheme == "file" else f"{scheme}://{path}"


def local_path(text: str | Path, field: str) -> Path:
    """Return the path with `~` expanded, whether or not it exists.

    Args:
        text: the path as the user wrote it.
        field: the field, option or argument that holds it, for messages.

    Raises:
        ConfigError: the path is not valid on this system, or may not be accessed.
    """
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, an unknown user, no permission
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{field}: {shown_value(str(text))} cannot be opened ({reason}); give the path of a file or folder"
        ) from None
    return path
