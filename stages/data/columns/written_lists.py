"""Lists and objects that a text column holds as they were printed: by Python, numpy, JSON or a database.

`df.to_csv` writes a column of lists as `['joy', 'love']`, one of arrays as `['joy' 'love']` or `[1 0 0]`, one of sets
as `{'joy'}` or `set()`. Nothing of it is executed: the text is cut at its own commas, blanks and quotes. Python's own
reader of literals would take `['joy' 'love']` for the single text `joylove`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTED_ONLY = re.compile(rf"(?:[uU]?(?:{_QUOTED})(?=\s|$)\s*)+", re.DOTALL)
_VALUES_ONLY = re.compile(rf"(?:(?:{_NUMBER}|True|False|None|nan)(?=\s|$)\s*)+")
_PIECE = re.compile(rf"[uU]?({_QUOTED})|[^\s]+", re.DOTALL)
# A quote opens at the start of an item alone: the one in `[it's, so]` is a letter.
_PART = re.compile(
    rf"\s*(?:[uU]?(?:{_QUOTED})\s*)+(?::\s*(?:{_QUOTED}|[^,'\"]*)\s*)?(?=,|\Z)|(?!\s*[uU]?['\"])[^,]*", re.DOTALL
)
_ENTRY = re.compile(rf"\s*([uU]?(?:{_QUOTED})|[^:]+?)\s*:(.*)", re.DOTALL)
_NUMPY_SCALAR = re.compile(rf"np\.\w+\(({_QUOTED}|{_NUMBER}|True|False)\)", re.DOTALL)
_CALLED = re.compile(r"(?:frozenset|set|array|list|tuple)\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_NAMED_LIST = rf"({_QUOTED})\s*:\s*(?:array\()?(\[(?:{_QUOTED}|[^\[\]'\"])*\])(?:,\s*dtype=\w+)?\)?\s*(?:,\s*|(?=\}}))"
_LISTS_BY_NAME = re.compile(rf"\{{\s*(?:{_NAMED_LIST})+\}}", re.DOTALL)
_NAMED_LISTS = re.compile(_NAMED_LIST, re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_MISSING = frozenset(("None", "nan", "NaN", "NaT", "null", "<NA>"))

Item = str | None
"""The text of an item; None where it was printed as a missing value."""


class NotAList(ValueError):
    """A text is no list that could be read; the message says what is in the way."""


def is_written_list(text: str) -> bool:
    """Whether a text has the outward form of a printed list, set, array or object."""
    inside = _without_call(text.strip())
    return inside is not None or _bracketed(text.strip())


def _bracketed(text: str) -> bool:
    return len(text) >= 2 and _BRACKETS.get(text[0]) == text[-1]


def _without_call(text: str) -> str | None:
    """`['a']` of `array(['a'], dtype=object)`; None where nothing is called."""
    called = _CALLED.fullmatch(text)
    if called is None:
        return None
    return called[1].strip() or "[]"


def written_list(text: str) -> list[Item] | dict[str, Item]:
    """The items of a printed list, or the entries of a printed object, all as text.

    Raises:
        NotAList: it was cut when it was printed, holds lists of lists, or is torn.
    """
    text = text.strip()
    text = _NUMPY_SCALAR.sub(r"\1", _without_call(text) or text)
    if not _bracketed(text):
        raise NotAList("has no closing bracket")
    parts = [part.strip() for part in _parts(text[1:-1])]
    if parts and not parts[-1]:
        parts.pop()  # the comma of ('joy',), or nothing at all
    if "" in parts:
        raise NotAList("has nothing between two commas")
    if text[0] == "{" and parts and all(_is_entry(part) for part in parts):
        return _entries(parts)
    return [item for part in parts for item in _items(part)]


def lists_by_name(text: str) -> dict[str, list[Item]] | None:
    """The lists of a printed object such as `{'text': ['one', 'two'], 'label': ['A', 'B']}`; None where it is none.

    Raises:
        NotAList: one of the lists cannot be read.
    """
    text = _NUMPY_SCALAR.sub(r"\1", text.strip())
    if _LISTS_BY_NAME.fullmatch(text) is None:
        return None
    found: dict[str, list[Item]] = {}
    for entry in _NAMED_LISTS.finditer(text):
        items = written_list(entry[2])
        assert isinstance(items, list), "it stands in square brackets"
        found[_unquoted(entry[1])] = items
    return found


def _parts(inside: str) -> Iterator[str]:
    """What stands between commas that are not in quotes."""
    start = 0
    while start <= len(inside):
        found = _PART.match(inside, start)
        if found is None:
            has_inner = any(bracket in inside for bracket in _BRACKETS)
            raise NotAList("holds lists in lists" if has_inner else "has torn quotes")
        yield found[0]
        start = found.end() + 1


def _items(part: str) -> list[Item]:
    if _QUOTED_ONLY.fullmatch(part):
        return [_unquoted(quoted) for quoted in _quoted_texts(part)]
    words = part.split()
    if "..." in words:
        raise NotAList("was shortened (…) when it was printed")
    if _VALUES_ONLY.fullmatch(part):
        return [_bare(word) for word in words]
    if part[0] in "[({'\"":
        raise NotAList("holds lists in lists" if part[0] in _BRACKETS else "has torn quotes")
    return [_bare(part)]


def _quoted_texts(part: str) -> Iterator[str]:
    return (found[1] for found in _PIECE.finditer(part) if found[1] is not None)


def _bare(text: str) -> Item:
    return None if text in _MISSING else text


def _is_entry(part: str) -> bool:
    return _QUOTED_ONLY.fullmatch(part) is None and _ENTRY.fullmatch(part) is not None


def _entries(parts: list[str]) -> dict[str, Item]:
    entries: dict[str, Item] = {}
    for part in parts:
        found = _ENTRY.fullmatch(part)
        assert found is not None
        name = _items(found[1].strip())[0]
        values = _items(found[2].strip()) if found[2].strip() else []
        if name is None or len(values) != 1:
            raise NotAList("is an object whose values are no single numbers")
        if name in entries:
            raise NotAList(f"has the name {name!r} twice")
        entries[name] = values[0]
    return entries


def _unquoted(quoted: str) -> str:
    def plain(found: re.Match[str]) -> str:
        said = found[1]
        return chr(int(said[1:], 16)) if len(said) > 1 else _ESCAPED.get(said, said)

    text = _ESCAPE.sub(plain, quoted[1:-1])
    # JSON writes signs beyond the first plane as two halves.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
