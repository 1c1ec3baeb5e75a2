"""The consoles of the command line, and its JSON."""

from __future__ import annotations

import json
import sys

from pydantic import BaseModel
from rich.console import Console

from pipeline.process.terminal import is_unicode

# A pipe has no width; a table cut to 80 columns would lose its numbers.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """Print a result for a program to read."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=not is_unicode(sys.stdout.encoding)) + "\n")
