"""Values, sizes, paths and names as messages show them: on one line, escaped and shortened."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

KeyPath = tuple[str | int, ...]
"""Path of a value in a document: keys of mappings and indices of lists, outermost first."""


def printable(text: str, limit: int = 200) -> str:
    """Return the text without line breaks and control characters, shortened in the middle."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 + 1 :]}"


def shown_value(value: Any, limit: int = 80) -> str:
    """Return the value on one line, escaped and shortened; lists and mappings in YAML's flow style."""
    if isinstance(value, str):  # repr escapes control characters and lone surrogates
        text = repr(value[: limit + 1])
    elif isinstance(value, dict):
        pairs = (f"{printable(str(key), limit)}: {shown_value(item)}" for key, item in list(value.items())[:10])
        text = "{" + ", ".join(pairs) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown_value(item) for item in list(value)[:40]) + "]"
    else:
        text = _scalar(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 1000:
        # Python refuses to print integers of more than a few thousand digits.
        return f"a number of {value.bit_length()} bits"
    return str(value)


def shown_path(path: KeyPath) -> str:
    """Return the path as it is written in messages: `stages[2].objective.layer_map`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return printable(text)


def shown_bytes(number: float) -> str:
    """Write a number of bytes: `3.2 GB`, `470 MB`, `12 kB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:.{int(unit == 1e9)}f} {name}"
    return f"{number / 1e3:.0f} kB"


def suggestion(name: Any, allowed: Iterable[str]) -> str:
    """Return ` (did you mean X?)` if one of the allowed names is close, otherwise nothing."""
    if not isinstance(name, str):
        return ""
    close = difflib.get_close_matches(name[:80], list(allowed), n=1, cutoff=0.7)
    return f" (did you mean {printable(close[0], 80)}?)" if close else ""
