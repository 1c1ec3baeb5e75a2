"""Tables on the terminal and results as JSON, the same for every benchmark."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stages.device.processor import processor


def console() -> Console:
    """Return a console of the terminal's width, or of 120 columns for files and pipes."""
    return Console(width=None if sys.stdout.isatty() else 120)


def table_of(first: str, *columns: str, title: str | None = None) -> Table:
    """Return a table whose columns are aligned to the right, but for the first."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def median_and_range(values: Sequence[float], form: str = ",.0f") -> str:
    """Return the median, and the lowest and highest value in brackets."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def commit() -> str:
    """Return the short name of the commit that is checked out; empty without git."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return git.stdout.strip()


def write_json(path: Path | None, results: Any) -> None:
    """Write results with the command, the commit and the machine; nothing without a path."""
    if path is None:
        return
    described = {
        "command": shlex.join(sys.argv),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "results": results,
    }
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
