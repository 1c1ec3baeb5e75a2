"""Names under which the programs of this environment can be started."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def program(name: str) -> str:
    """The command that starts a program of this environment: its name, or its path where it is not on PATH."""
    if shutil.which(name):
        return name
    return os.path.relpath(Path(sys.executable).parent / name)
