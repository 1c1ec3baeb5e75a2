"""Paths that somebody has given, before anything is done with them."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.core.errors import ConfigError
from schemas.core.wording import shown_value


def local_path(given: str | Path, place: str) -> Path:
    """The path with `~` filled in; whether anything is there is another question.

    Args:
        given: as somebody wrote it.
        place: the field, the option or the argument.

    Raises:
        ConfigError: no file of this system can have that name, or we may not look there.
    """
    try:
        path = Path(given).expanduser()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, nobody's home, closed to us
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{place}: {shown_value(str(given))} cannot be opened ({reason}); give the path of a file or folder"
        ) from None
    return path
