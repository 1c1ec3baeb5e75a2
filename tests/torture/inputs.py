"""Recipes and data files, damaged by the thousand: loaded or refused with one message, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml

from pipeline.library import read_recipe, shipped_names
from schemas.data import FileTask
from schemas.errors import ConfigError, DataError
from schemas.loading import dump_recipe
from stages.sources import load_task

LONGEST_SECONDS = 10.0
MOST_BYTES = 1 << 30


@dataclass
class Inputs:
    """What a campaign found."""

    loaded: int = 0
    refused: int = 0
    slowest: float = 0.0
    """Seconds."""
    grown: int = 0
    """Bytes that the process grew by at most."""
    losses: list[str] = field(default_factory=list)
    """Anything but a value or a refusal, or too slow, or too large."""

    def try_one(self, name: str, load: Callable[[], Any]) -> None:
        """Load one and note how it ended."""
        before, began = _peak(), time.perf_counter()
        try:
            load()
            self.loaded += 1
        except (ConfigError, DataError) as error:
            self.refused += 1
            if not str(error).strip() or "Traceback" in str(error):
                self.losses.append(f"{name}: refused without a message: {error!r}")
        except Exception as error:
            self.losses.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        elapsed, grown = time.perf_counter() - began, _peak() - before
        self.slowest, self.grown = max(self.slowest, elapsed), max(self.grown, grown)
        if elapsed > LONGEST_SECONDS or grown > MOST_BYTES:
            self.losses.append(f"{name}: {elapsed:.1f} s, {grown / 2**20:.0f} MiB")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Values that a careless or a hostile hand may write anywhere.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\x00", "é" * 500, "../../etc", "/", "~",
    "1 epoch", "1e400 tokens", "-3 tokens", "${HOME}", "file:///etc/passwd", "!!python/object:os.system", [], {}, [[]],
    {"kind": "files"}, ["a"] * 1000, {"a": {"b": {"c": {}}}}, "null", "2026-01-01", "0x10", "1_000",
)  # fmt: skip


def recipe_campaign(folder: Path, *, cases: int, seed: int = 0) -> Inputs:
    """Load so many damaged copies of the shipped recipes."""
    draw, found = random.Random(seed), Inputs()
    texts = [dump_recipe(read_recipe(name)) for name in shipped_names()]
    file = folder / "recipe.yaml"
    for case in range(cases):
        kind = draw.choice(("value", "value", "value", "bytes", "bomb", "deep"))
        file.write_bytes(_damaged_recipe(kind, draw.choice(texts), draw))
        found.try_one(f"recipe {case} ({kind})", lambda: read_recipe(str(file)))
    return found


def _damaged_recipe(kind: str, text: str, draw: random.Random) -> bytes:
    match kind:
        case "value":
            content = yaml.safe_load(text)
            for _ in range(draw.randint(1, 3)):
                _spoil(content, draw)
            return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
        case "bytes":
            raw = bytearray(text.encode())
            for _ in range(draw.randint(1, 8)):
                place = draw.randrange(len(raw))
                raw[place : place + draw.randint(0, 5)] = draw.randbytes(draw.randint(0, 6))
            return bytes(raw)
        case "bomb":
            lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
            lines += [
                f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]"
                for n in range(1, draw.randint(3, 40))
            ]
            return "\n".join(lines).encode()
        case _:
            depth = draw.choice((50, 500, 5_000, 100_000))
            opened, closed = draw.choice((("[", "]"), ("{a: ", "}"), ("- ", "")))
            return ("name: " + opened * depth + "1" + closed * depth).encode()


def _spoil(content: Any, draw: random.Random) -> None:
    """Put something odd at a random place."""
    holder, key = None, None
    spot = content
    while isinstance(spot, dict | list) and spot and (holder is None or draw.random() < 0.8):
        holder, key = spot, draw.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
        spot = holder[key]
    if holder is None:
        return
    if isinstance(holder, dict) and draw.random() < 0.2:
        holder[draw.choice(("", "Name", "stage", "x" * 300, "\x07"))] = holder.pop(key)
    else:
        holder[key] = draw.choice(ODD)


def file_campaign(folder: Path, *, cases: int, seed: int = 0) -> Inputs:
    """Load so many damaged data files, as training rows of a task."""
    draw, found = random.Random(seed), Inputs()
    good = folder / "good.jsonl"
    rows = [{"text_a": f"row {n} is good", "label": ("no", "yes")[n % 2]} for n in range(40)]
    good.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for case in range(cases):
        suffix = draw.choice((".jsonl", ".json", ".csv", ".tsv", ".parquet"))
        kind = draw.choice(sorted(DAMAGE))
        packed = draw.choice(("", "", ".gz")) if suffix != ".parquet" else ""
        file = folder / f"case-{case}{suffix}{packed}"
        content = DAMAGE[kind](_written(rows, suffix, folder), draw)
        file.write_bytes(_packed(content, packed, draw))
        task = FileTask(train=str(file), validation=str(good))
        cache = folder / "cache"
        found.try_one(f"{file.name} ({kind})", lambda: load_task(task, cache))  # noqa: B023
        file.unlink()
    return found


def _written(rows: list[dict[str, str]], suffix: str, folder: Path) -> bytes:
    match suffix:
        case ".jsonl":
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        case ".json":
            return json.dumps(rows).encode()
        case ".csv" | ".tsv":
            mark = "," if suffix == ".csv" else "\t"
            lines = [mark.join(("text_a", "label"))]
            lines += [mark.join((row["text_a"], row["label"])) for row in rows]
            return ("\n".join(lines) + "\n").encode()
        case _:
            path = folder / "whole.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            return path.read_bytes()


def _packed(content: bytes, suffix: str, draw: random.Random) -> bytes:
    if not suffix:
        return content
    packed = draw.choice((gzip.compress, gzip.compress, bz2.compress, lzma.compress))(content)
    return packed[: draw.randrange(len(packed))] if draw.random() < 0.4 else packed


def _turned(content: bytes, draw: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(draw.randint(1, 30)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return bytes(raw)


def _odd_rows(_: bytes, draw: random.Random) -> bytes:
    """JSON lines of mixed types, missing and doubled keys, huge labels."""
    rows = []
    for number in range(draw.randint(1, 30)):
        row: dict[str, Any] = {
            "text_a": f"text {number}",
            "label": draw.choice(("no", "yes", 0, 1)),
        }
        for _ in range(draw.randint(0, 2)):
            row[draw.choice(("text_a", "label", "text_b", "id", ""))] = draw.choice(ODD)
        rows.append(json.dumps(row))
    return ("\n".join(rows) + "\n").encode("utf-8", "surrogatepass")


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "untouched": lambda content, _: content,
    "bytes turned": _turned,
    "cut short": lambda content, draw: content[: draw.randrange(len(content))],
    "empty": lambda *_: b"",
    "NUL bytes": lambda content, draw: content[:50] + bytes(draw.randint(1, 500)) + content[50:],
    "noise": lambda _, draw: draw.randbytes(draw.randint(1, 4000)),
    "UTF-16": lambda content, _: content.decode("utf-8", "replace").encode("utf-16"),
    "Latin-1": lambda content, _: "text_a,label\nné,à\n".encode("latin-1") + content,
    "doubled": lambda content, _: content + content,
    "odd rows": _odd_rows,
    "nested": lambda _, draw: b'{"text_a": ' + b"[" * draw.choice((10, 2000, 50_000)) + b"\n",
    "only a head": lambda content, _: content.split(b"\n")[0],
    "long line": lambda _, draw: (
        b'{"text_a": "' + b"x " * draw.choice((10_000, 1_000_000)) + b'", "label": "no"}\n'
    ),
}
