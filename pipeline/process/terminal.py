"""What reaches a terminal: every print of this project goes through here.

Paths, labels, names and messages of others stand in what is printed. None of it is markup: rich would take brackets for
styles. None of it is a command to the terminal either: control characters, and those that turn the direction of
writing, are shown as escapes. What the terminal's encoding lacks is replaced instead of ending the program.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from contextlib import suppress

from rich.console import Console
from rich.text import Text

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LIKENESS = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("‘’‚′", "'"),
        **dict.fromkeys("“”„″", '"'),
        "…": "...",
        "×": "x",
        "±": "+-",
        "≤": "<=",
        "≥": ">=",
        "→": "->",
        "·": ".",
        "•": "*",
    }
)
_ERRORS = "distill-likeness"


def safe(text: str) -> str:
    """The text without anything that a terminal would take for a command; line breaks and tabs stay."""
    return _COMMANDS.sub(lambda match: ascii(match[0])[1:-1], text)


def shown(text: str, style: str = "") -> Text:
    """The text as it is, for a line or a cell of a table."""
    return Text(safe(text), style)


def say(console: Console, text: str = "", style: str = "") -> None:
    """Print a line, however long it is."""
    console.print(shown(text, style), soft_wrap=True, highlight=False)


def make_streams_lenient() -> None:
    """Let standard output and error replace what their encoding lacks, rather than fail in the middle of a table."""
    codecs.register_error(_ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a stream whose file was put in the place of another
                stream.reconfigure(errors=_ERRORS)


def is_unicode(encoding: str | None) -> bool:
    """Whether an encoding has every character."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: the like in ASCII, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].translate(_LIKENESS)
    return lacking.encode("ascii", "backslashreplace").decode("ascii"), error.end
