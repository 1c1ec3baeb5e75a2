"""Careless or hostile input: recipes, `--set` changes and data files, as hypothesis strategies.

A case has a small description and becomes large only when it is written, so that hypothesis can shrink it.
"""

from __future__ import annotations

import bz2
import copy
import functools
import gzip
import io
import json
import lzma
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from tests.torture.bombs import COLUMNS, parquet_bomb
from tests.torture.strangers import stranger_table

Draw = Callable[[st.SearchStrategy[Any]], Any]

# Values that may be written anywhere.
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "é" * 500,
    "../../etc",
    "/",
    "~",
    "1 epoch",
    "1e400 tokens",
    "-3 tokens",
    "${HOME}",
    "file:///etc/passwd",
    "!!python/object:os.system",
    [],
    {},
    [[]],
    {"kind": "files"},
    ["a"] * 1000,
    {"a": {"b": {"c": {}}}},
    "null",
    "2026-01-01",
    "0x10",
    "1_000",
    "=1+1",
)
odd = (
    st.sampled_from(ODD)
    | st.text(max_size=20)
    | st.integers()
    | st.floats()
    | st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))
)
_bytes = st.binary(max_size=8)


@dataclass(frozen=True)
class Damaged:
    """The content of a file, and the damage done to it."""

    kind: str
    content: bytes
    name: str = ""
    """How the file is called."""

    def __repr__(self) -> str:
        shown = repr(self.content)
        return f"{self.name} ({self.kind}): {shown if len(shown) < 300 else shown[:150] + ' … ' + shown[-150:]}"


def _turned(draw: Draw, content: bytes) -> bytes:
    raw = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, len(raw)))
        raw[start : start + draw(st.integers(0, 6))] = draw(_bytes)
    return bytes(raw)


def _cut(draw: Draw, content: bytes) -> bytes:
    return content[: draw(st.integers(0, max(0, len(content) - 1)))]


def _with_nul(draw: Draw, content: bytes) -> bytes:
    start = draw(st.integers(0, len(content)))
    return content[:start] + bytes(draw(st.integers(1, 300))) + content[start:]


def _recoded(draw: Draw, content: bytes) -> bytes:
    text = "# né, à\n" + content.decode("utf-8", "replace")
    return text.encode(draw(st.sampled_from(("utf-16", "utf-32", "latin-1", "utf-7", "cp500"))), "replace")


# --- recipes


def _spoiled(draw: Draw, content: bytes) -> bytes:
    document = yaml.safe_load(content)
    for _ in range(draw(st.integers(1, 3))):
        _spoil(draw, document)
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")


def _spoil(draw: Draw, content: Any) -> None:
    """Insert an unusual value at any position."""
    places = places_of(content)
    if not places:
        return
    *path, key = draw(st.sampled_from(places))
    holder = functools.reduce(lambda value, step: value[step], path, content)
    if isinstance(holder, dict) and draw(st.integers(0, 4)) == 0:
        holder[draw(st.sampled_from(("", "Name", "stage", "x" * 300, "\x07")))] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(draw(odd))  # inserted values may be damaged too


def places_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [inner_path for key, inner in items for inner_path in [(*path, key), *places_of(inner, (*path, key))]]


def _bomb(draw: Draw, _: bytes) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, draw(st.integers(3, 40))):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines).encode()


def _deep(draw: Draw, _: bytes) -> bytes:
    depth = draw(st.sampled_from((50, 500, 5_000, 100_000)))
    opened, closed = draw(st.sampled_from((("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", ""), ("!!set {", "}"))))
    return ("name: " + opened * depth + "1" + closed * depth).encode()


def _huge(draw: Draw, content: bytes) -> bytes:
    what, times = draw(st.sampled_from((b"x", b"- x\n", b"\n", b"#", b"a: 1\n", b"'"))), 2_000_000
    return content + b"\n" + what * (times // len(what))


RECIPE_DAMAGE: dict[str, Callable[[Draw, bytes], bytes]] = {
    "values": _spoiled,
    "bytes turned": _turned,
    "cut short": _cut,
    "NUL bytes": _with_nul,
    "another encoding": _recoded,
    "doubled": lambda _, content: content + content,
    "empty": lambda draw, _: draw(st.sampled_from((b"", b"\n", b"---", b"null", b"[]", b"\xef\xbb\xbf"))),
    "aliases that multiply": _bomb,
    "nested": _deep,
    "huge": _huge,
}


def harmful(canary: str) -> tuple[str, ...]:
    """Values that would create the file `canary` if they were executed."""
    touch = f"touch '{canary}'"
    return (
        f'!!python/object/apply:os.system ["{touch}"]',
        f"!!python/object/new:subprocess.Popen [[touch, '{canary}']]",
        "!!python/name:os.system ''",
        f"'$({touch})'".replace("''", "'"),
        f'"`{touch}`"',
        f'"; {touch}; #"',
        f"\"__import__('os').system('touch {canary}')\"",
        "\"{{ ''.__class__.__mro__[1] }} ${IFS}\"",
    )


@st.composite
def damaged_recipes(draw: Draw, texts: Callable[[], list[str]], canary: str) -> Damaged:
    """One of the recipes, with damage."""
    kind = draw(st.sampled_from(("values", *RECIPE_DAMAGE, "tags")))  # the first is the most informative
    content = draw(st.sampled_from(texts())).encode()
    if kind == "tags":
        content += f"\nextra: {draw(st.sampled_from(harmful(canary)))}\n".encode()
    else:
        content = RECIPE_DAMAGE[kind](draw, content)
    return Damaged(kind, content, "recipe.yaml")


# --- overrides


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).strip()


@st.composite
def changes(draw: Draw, document: Callable[[], dict[str, Any]], canary: str) -> list[str]:
    """Up to four `--set` texts, valid and invalid."""
    return [_change(draw, document(), canary) for _ in range(draw(st.integers(1, 4)))]


def _change(draw: Draw, document: dict[str, Any], canary: str) -> str:
    real = st.sampled_from([".".join(map(str, inner_path)) for inner_path in places_of(document)])
    strange = st.sampled_from(
        (
            "stages[0].name",
            "stages[-1]",
            "stages.99999999999",
            "a" * 5000,
            "a." * 3000 + "b",
            "[0]",
            "__class__.x",
            "stages.general.objective.terms.hidden.weight",
            "..",
            "task.",
            ".task",
            "тест.é",
            "\x00",
            "x\ny",
            "task[",
        )
    )
    path = draw(real | real | strange | st.text(max_size=12))
    value = draw(
        odd.map(_flow)
        | st.text(max_size=30)
        | st.sampled_from(harmful(canary))
        | st.sampled_from(
            (
                "[" * 5000,
                "{a: " * 5000,
                "x" * 1_500_000,
                "'",
                '"',
                "[1, 2",
                "{a: 1, a: 2}",
                "&a [*a]",
                "<<: {}",
                "\x00",
                "\ud800",
                "!!binary aGk=",
                "!!set {a}",
                "1\n2: 3",
                "---\na\n---\nb",
                "%YAML 9.9",
                "\u2028",
                "@x",
            )
        )
    )
    return draw(st.sampled_from((f"{path}={value}", f"{path}={value}", f"{path} = {value}", f"{path}{value}", value)))


# --- data files

ROWS = [{"text_a": f"row {n} is good", "label": ("no", "yes")[n % 2], "id": n} for n in range(40)]
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".conll")


def written(rows: list[dict[str, Any]], suffix: str) -> bytes:
    """Return the rows in a format."""
    match suffix:
        case ".jsonl":
            return "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        case ".json":
            return json.dumps(rows).encode("utf-8", "surrogatepass")
        case ".csv" | ".tsv":
            mark = "," if suffix == ".csv" else "\t"
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
            return ("\n".join(map(mark.join, lines)) + "\n").encode("utf-8", "surrogatepass")
        case ".parquet":
            target = io.BytesIO()
            try:
                table = pa.Table.from_pylist(rows)
            except pa.ArrowException:  # a column has one type; mixed values become text
                table = pa.Table.from_pylist([{key: str(row[key]) for key in row} for row in rows])
            pq.write_table(table, target)
            return target.getvalue()
        case ".conll":
            words = [(word, row) for row in rows for word in str(row.get("text_a")).split()]
            text = "".join(f"{word}\t{row.get('label')}\n" for word, row in words)
            return text.encode("utf-8", "surrogatepass")
        case _:
            return "".join(f"{row.get('text_a')}\n" for row in rows).encode("utf-8", "surrogatepass")


def _odd_rows(draw: Draw, suffix: str) -> bytes:
    """Rows with mixed types, missing and duplicate keys, and unusual labels."""
    rows = []
    for number in range(draw(st.integers(1, 12))):
        row: dict[str, Any] = {"text_a": f"text {number}", "label": draw(st.sampled_from(("no", "yes", 0, 1)))}
        for _ in range(draw(st.integers(0, 2))):
            row[draw(st.sampled_from(("text_a", "label", "text_b", "id", "")))] = draw(odd)
        rows.append(row)
    return written(rows, ".jsonl" if suffix == ".parquet" else suffix)


def _rows_with(draw: Draw, suffix: str) -> bytes:
    """The valid rows with one error in all rows, or in the last."""
    change: dict[str, Any] = draw(
        st.sampled_from(
            (
                {"label": "y" * 5000},
                {"label": "x" * 5_000_000},
                {"text_a": "x " * 5_000_000},
                {"text_a": ""},
                {"id": 1},
                {"label": 0.5},
                {"text_a": "=cmd|'/C calc'!A1"},
                {"label": "yes\x07"},
                {"text_a": "\u2028"},
                {f"column {n}": n for n in range(3000)},
            )
        )
    )
    last = draw(st.booleans()) or len(str(change)) > 10_000
    rows = [row | change if not last or row is ROWS[-1] else row for row in ROWS]
    return written(rows, suffix)


def _keys_of_their_own(_: Draw, suffix: str) -> bytes:
    rows = [{f"id {n}": "a text", "text_a": f"row {n}", "label": n % 2} for n in range(1500)]
    return written(rows, ".jsonl" if suffix == ".parquet" else suffix)


class Touch:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path(self.canary).touch, ()


def _executable(draw: Draw, canary: str) -> bytes:
    """A pickle, a script, or an archive with a loading script."""
    script = f"import pathlib; pathlib.Path({canary!r}).touch()\n"
    match draw(st.sampled_from(("pickle", "script", "zip", "shell"))):
        case "pickle":
            return pickle.dumps(Touch(canary), protocol=draw(st.sampled_from((0, 2, 5))))
        case "script":
            return f"#!/usr/bin/env python\n{script}".encode()
        case "zip":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for name in ("dataset.py", "__init__.py", "../train.jsonl"):
                    archive.writestr(name, script)
            return packed.getvalue()
        case _:
            return f"#!/bin/sh\ntouch '{canary}'\n".encode()


@functools.cache
def long_lines(suffix: str) -> bytes:
    """A row of 100 MB among others."""
    if suffix == ".conll":  # not split into its 17 million words and joined again, which takes half a minute
        label = str(ROWS[1]["label"]).encode()
        long = b"x\t%s\n" % label
        return b"".join((written(ROWS[:1], suffix), long * (100_000_000 // len(long)), written(ROWS[2:3], suffix)))
    return written([ROWS[0], {**ROWS[1], "text_a": "x " * 50_000_000}, ROWS[2]], suffix)


@functools.cache
def gzip_bomb(what: bytes) -> bytes:
    """Content of 256 MB, compressed to 256 kB."""
    return gzip.compress(what * ((1 << 28) // len(what)), 9)


def _bomb_file(draw: Draw, suffix: str) -> bytes:
    if suffix == ".parquet":
        return parquet_bomb(draw(st.sampled_from(tuple(COLUMNS))))
    row = written(ROWS[:1], ".jsonl") if suffix == ".jsonl" else b"a,b\n"
    return gzip_bomb(draw(st.sampled_from((b"\n", b" ", b"x", b"[", row))))


def _nested(draw: Draw, _: str) -> bytes:
    return b'{"text_a": ' + b"[" * draw(st.sampled_from((10, 2000, 50_000, 20_000_000))) + b"\n"


# Replacements for the rows, and damage to the bytes of valid ones.
CONTENT: dict[str, Callable[[Draw, str], bytes]] = {
    "odd rows": _odd_rows,
    "one thing wrong": _rows_with,
    "keys of their own": _keys_of_their_own,
    "nested": _nested,
    "a stranger's table": lambda draw, _: stranger_table(draw),
    "noise": lambda draw, _: draw(st.binary(max_size=200)) * 20,
    "empty": lambda draw, _: draw(st.sampled_from((b"", b"\n\n", b" ", b"{}", b"[]", b"\xef\xbb\xbf"))),
    "only a head": lambda _, suffix: written(ROWS, suffix).split(b"\n")[0],
    "a line of 100 MB": lambda _, suffix: long_lines(suffix),
    "unpacks to gigabytes": _bomb_file,
}
BYTES: dict[str, Callable[[Draw, bytes], bytes]] = {
    "untouched": lambda _, content: content,
    "bytes turned": _turned,
    "cut short": _cut,
    "NUL bytes": _with_nul,
    "another encoding": _recoded,
    "doubled": lambda _, content: content + content,
}
FILE_DAMAGE = (*CONTENT, *BYTES, "executable")
_RARE = ("a line of 100 MB", "unpacks to gigabytes")


@st.composite
def damaged_files(draw: Draw, canary: str) -> Damaged:
    """A data file of any format, compressed or not, with one kind of damage."""
    suffix = draw(st.sampled_from(SUFFIXES))
    kind = draw(st.sampled_from(FILE_DAMAGE))
    if kind in _RARE and draw(st.integers(0, 3)):  # large, hence slow to write
        kind = "untouched"
    if kind == "executable":
        return Damaged(kind, _executable(draw, canary), f"case{suffix}")
    if kind in CONTENT:
        content = CONTENT[kind](draw, suffix)
    else:
        content = BYTES[kind](draw, written(ROWS, suffix))
    if kind == "unpacks to gigabytes" and suffix != ".parquet":
        return Damaged(kind, content, f"case{suffix}.gz")
    if suffix == ".parquet" or len(content) > 1_000_000 or draw(st.integers(0, 2)):
        return Damaged(kind, content, f"case{suffix}")
    pack = draw(st.sampled_from((gzip.compress, gzip.compress, bz2.compress, lzma.compress)))
    packed = pack(content)
    return Damaged(kind, _cut(draw, packed) if draw(st.integers(0, 2)) == 0 else packed, f"case{suffix}.gz")
