"""Lists and objects as text: printed by Python, numpy, JSON or a database.

`df.to_csv` writes a column of lists as `['joy', 'love']`, one of arrays as `['joy' 'love']` or `[1 0 0]`, one of sets
as `{'joy'}` or `set()`. The text is split at its commas, blanks and quotes, and never executed. (Python's own parser of
literals would read `['joy' 'love']` as the single text `joylove`.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTED_ONLY = re.compile(rf"(?:[uU]?(?:{_QUOTED})(?=\s|$)\s*)+", re.DOTALL)
_VALUES_ONLY = re.compile(rf"(?:(?:{_NUMBER}|True|False|None|nan)(?=\s|$)\s*)+")
_PIECE = re.compile(rf"[uU]?({_QUOTED})|[^\s]+", re.DOTALL)
# A quote opens only at the start of an item: the one in `[it's, so]` is a letter.
_PART = re.compile(
    rf"\s*(?:[uU]?(?:{_QUOTED})\s*)+(?::\s*(?:{_QUOTED}|[^,'\"]*)\s*)?(?=,|\Z)|(?!\s*[uU]?['\"])[^,]*", re.DOTALL
)
_ENTRY = re.compile(rf"\s*([uU]?(?:{_QUOTED})|[^:]+?)\s*:(.*)", re.DOTALL)
_NUMPY_SCALAR = re.compile(rf"np\.\w+\(({_QUOTED}|{_NUMBER}|True|False)\)", re.DOTALL)
_CALL = re.compile(r"(?:frozenset|set|array|list|tuple)\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_NAMED_LIST = rf"({_QUOTED})\s*:\s*(?:array\()?(\[(?:{_QUOTED}|[^\[\]'\"])*\])(?:,\s*dtype=\w+)?\)?\s*(?:,\s*|(?=\}}))"
_LISTS_BY_NAME = re.compile(rf"\{{\s*(?:{_NAMED_LIST})+\}}", re.DOTALL)
_NAMED_LISTS = re.compile(_NAMED_LIST, re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_MISSING = frozenset(("None", "nan", "NaN", "NaT", "null", "<NA>"))

Item = str | None
"""Text of an item; None for a missing value."""


class NotAList(ValueError):
    """Raised when a text is not a list that can be parsed; the message gives the reason."""


def is_written_list(text: str) -> bool:
    """Return whether a text looks like a printed list, set, array or object."""
    text = text.strip()
    return _CALL.fullmatch(text) is not None or _is_bracketed(text)


def _is_bracketed(text: str) -> bool:
    return len(text) >= 2 and _BRACKETS.get(text[0]) == text[-1]


def written_list(text: str) -> list[Item] | dict[str, Item]:
    """Return the items of a printed list, or the entries of a printed object, all as text.

    Raises:
        NotAList: the text was shortened when it was printed, holds nested lists, or has unbalanced quotes.
    """
    text = text.strip()
    if (call := _CALL.fullmatch(text)) is not None:
        text = call[1].strip() or "[]"  # `['a']` of `array(['a'], dtype=object)`
    text = _NUMPY_SCALAR.sub(r"\1", text)
    if not _is_bracketed(text):
        raise NotAList("has no closing bracket")
    parts = [part.strip() for part in _parts(text[1:-1])]
    if not parts[-1]:
        parts.pop()  # the comma of ('joy',), or an empty list
    if "" in parts:
        raise NotAList("has nothing between two commas")
    if text[0] == "{" and parts and not any(map(_QUOTED_ONLY.fullmatch, parts)):
        entries = [entry for part in parts if (entry := _ENTRY.fullmatch(part))]
        if len(entries) == len(parts):
            return _object(entries)
    return [item for part in parts for item in _items(part)]


def lists_by_name(text: str) -> dict[str, list[Item]] | None:
    """Return the lists of a printed object such as `{'text': ['one', 'two'], 'label': ['A', 'B']}`; None for others.

    Raises:
        NotAList: one of the lists cannot be parsed.
    """
    text = _NUMPY_SCALAR.sub(r"\1", text.strip())
    if _LISTS_BY_NAME.fullmatch(text) is None:
        return None
    lists = {_unquoted(entry[1]): written_list(entry[2]) for entry in _NAMED_LISTS.finditer(text)}
    return {name: items for name, items in lists.items() if isinstance(items, list)}  # in square brackets all are


def _parts(inside: str) -> Iterator[str]:
    """Yield the parts between commas outside of quotes."""
    start = 0
    while start <= len(inside):
        part = _PART.match(inside, start)
        if part is None:
            is_nested = any(bracket in inside for bracket in _BRACKETS)
            raise NotAList("holds lists in lists" if is_nested else "has unbalanced quotes")
        yield part[0]
        start = part.end() + 1


def _items(part: str) -> list[Item]:
    """Return the items of a part: quoted texts or numbers with blanks between them, or one bare text."""
    if _QUOTED_ONLY.fullmatch(part):
        return [_unquoted(piece[1]) for piece in _PIECE.finditer(part) if piece[1] is not None]
    words = part.split()
    if "..." in words:
        raise NotAList("was shortened (…) when it was printed")
    if not _VALUES_ONLY.fullmatch(part):
        if part[0] in "[({'\"":
            raise NotAList("holds lists in lists" if part[0] in _BRACKETS else "has unbalanced quotes")
        words = [part]
    return [None if word in _MISSING else word for word in words]


def _object(matches: list[re.Match[str]]) -> dict[str, Item]:
    entries: dict[str, Item] = {}
    for match in matches:
        name, value = _items(match[1].strip())[0], match[2].strip()
        values = _items(value) if value else []
        if name is None or len(values) != 1:
            raise NotAList("is an object whose values are not single numbers")
        if name in entries:
            raise NotAList(f"has the name {name!r} twice")
        entries[name] = values[0]
    return entries


def _unquoted(quoted: str) -> str:
    def unescape(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)

    text = _ESCAPE.sub(unescape, quoted[1:-1])
    # JSON writes characters beyond the basic plane as surrogate pairs.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
