"""Output to a terminal; every print of this project goes through this module.

The output contains paths, labels, names and messages from outside. None of it may act as markup of rich or as a command
to the terminal: control characters, and those that turn the direction of writing, are shown as escapes. Characters that
the terminal's encoding lacks are replaced.
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
_COPIED = re.compile(r"\S/|/\S| -{1,2}\w|: (?:distill|mlflow|prefect) ")
"""Text that people copy: the terminal itself breaks a line with it, which adds no line break to the copy."""
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
    """The text with control characters escaped, except line breaks and tabs."""
    return _COMMANDS.sub(lambda match: ascii(match[0])[1:-1], text)


def shown(text: str, style: str = "") -> Text:
    """The text for a line or a cell of a table, not interpreted as markup."""
    return Text(safe(text), style)


def say(console: Console, text: str = "", style: str = "") -> None:
    """Print a line; a terminal breaks sentences between words, and nothing breaks commands, paths and addresses."""
    is_sentence = console.is_terminal and not _COPIED.search(text)
    console.print(shown(text, style), soft_wrap=not is_sentence, highlight=False)


def make_streams_lenient() -> None:
    """Have standard output and error replace characters that their encoding lacks, rather than fail."""
    codecs.register_error(_ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # from a stream whose file was replaced
                stream.reconfigure(errors=_ERRORS)


def is_unicode(encoding: str | None) -> bool:
    """Return whether an encoding has every character of Unicode."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Similar ASCII characters, or escapes, for characters that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].translate(_LIKENESS)
    return lacking.encode("ascii", "backslashreplace").decode("ascii"), error.end
