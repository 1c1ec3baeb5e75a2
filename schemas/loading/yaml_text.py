"""YAML read within bounds: anything malformed or malicious ends in a ConfigError.

Duplicate keys, alias bombs, deep nesting, tags and merge keys are refused, and the line of every key is kept for later
messages. Only scalars, lists and mappings are ever constructed.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from schemas.core.errors import ConfigError
from schemas.core.regular_files import open_regular, special_kind
from schemas.core.wording import KeyPath, printable

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_ALIASES = 20
MAX_NODES = 20_000

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp"))


@dataclass(frozen=True)
class Document:
    """A parsed text: its value, and the line of each key and list item by its path."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Composes nodes only, and counts aliases, depth and size before anything is expanded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliases = 0
        self.depth = 0
        self.num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise _refusal(f"more than {MAX_ALIASES} aliases; write the values out", event)
        self.depth += 1
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES:,} values; this is no recipe", event)
        if self.depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


# YAML 1.1 reads 1e-4 as text, because it lacks the dot; nobody who writes it means text.
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _refusal(text: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=event.start_mark)


def read_yaml(path: Path, shown: str) -> Document:
    """Return the mapping in a YAML file.

    Args:
        path: the file.
        shown: its name in messages.

    Raises:
        ConfigError: the file cannot be read, is no YAML within bounds, or holds no mapping.
    """
    document = parse_yaml(_read_text(path, shown), shown)
    if not isinstance(document.value, dict):
        kind = {list: "a list", type(None): "nothing"}.get(type(document.value), "a single value")
        raise ConfigError(f"{shown}:1: a recipe is a mapping of keys to values, this file holds {kind}")
    return document


def _read_text(path: Path, shown: str) -> str:
    try:
        if path.is_dir():
            raise ConfigError(f"{shown}: is a folder; name a YAML file in it")
        if kind := special_kind(path):
            raise ConfigError(f"{shown}: is {kind}, not a regular file; name a YAML file")
        with open_regular(path) as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{shown}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{shown}: cannot be read ({reason})") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{shown}: larger than {MAX_BYTES:,} bytes; this is no recipe")
    if b"\0" in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise ConfigError(f"{shown}:{line}: a NUL byte; this is no text file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{shown}:{line}: not UTF-8 text; save the file as UTF-8") from None


def parse_yaml(text: str, shown: str) -> Document:
    """Return the value of a YAML text of one document.

    Raises:
        ConfigError: every duplicate or unusable key at once, or the first syntax error.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None)
            builder = _Builder(loader, shown)
            value = builder.build(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        where = f"{shown}:{mark.line + 1}" if mark else shown
        raise ConfigError(f"{where}: not valid YAML: {printable(reason)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{shown}:{line}: the character {error.character!r} is not allowed in YAML") from None
    if builder.problems:
        raise ConfigError(builder.problems)
    return Document(value, builder.lines)


class _Builder:
    """Turns nodes into values, and notes their lines and everything that is wrong with keys."""

    def __init__(self, loader: _Loader, shown: str) -> None:
        self.loader = loader
        self.shown = shown
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[str] = []
        self.num_nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _refusal("aliases expand too far; write the values out", node)
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        self._note(node, f"the tag {node.tag.replace(_TAG, '!!')[:80]!r} is not supported; leave it out")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                self._note(key_node, "merge keys (<<) are not supported; write the keys out")
            elif not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                self._note(key_node, "a key must be text; put it in quotes")
            elif key in first:
                self._note(key_node, f"{key[:80]!r} is given twice, first in line {first[key]}; keep one")
            else:
                first[key] = line
                self.lines[(*path, key)] = line
                result[key] = self.build(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _TAG + "timestamp":  # a branch or revision may look like a date
            return node.value
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError, OverflowError):
            self._note(node, f"{node.value[:40]!r} cannot be read as {node.tag.removeprefix(_TAG)}")
            return None

    def _note(self, node: yaml.Node, text: str) -> None:
        self.problems.append(f"{self.shown}:{node.start_mark.line + 1}: {text}")
