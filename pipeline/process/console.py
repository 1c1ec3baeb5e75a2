"""The consoles of the command line, and its JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipeline.process.terminal import is_unicode

if TYPE_CHECKING:
    from pydantic import BaseModel

# A pipe has no width; a table cut to 80 columns would lose its numbers.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False)


@contextmanager
def waiting_for(activity: str) -> Iterator[None]:
    """Show on a terminal what a command does before it has anything else to show; nothing elsewhere."""
    with err.status(activity, spinner="line", refresh_per_second=4):
        yield


def print_json(value: BaseModel | dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print a result for a program to read."""
    content = value if isinstance(value, dict | list) else value.model_dump(mode="json")
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=not is_unicode(sys.stdout.encoding)) + "\n")
