"""What a store holds that nothing refers to any more: found, shown, and removed when asked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline import files
from pipeline.checkpoints import MANIFEST, CheckpointStore
from schemas.base import Frozen
from schemas.errors import ConfigError

_STAGE_FOLDER = re.compile(r"^[a-z_]+-([0-9a-f]{16})$")
_UNITS = {"minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0}


class Piece(Frozen):
    """Something that could go."""

    path: str
    """Below the store."""
    size: int
    """Bytes."""
    reason: str
    """Why nothing needs it."""
    age: float
    """Seconds since it was last written."""


class Garbage(Frozen):
    """Everything that could go, or went."""

    store: str
    pieces: tuple[Piece, ...]
    removed: bool
    """Whether it was removed, or is only shown."""
    in_use: tuple[str, ...] = ()
    """What was left because somebody was working on it."""

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(piece.size for piece in self.pieces)


def seconds_of(age: str) -> float:
    """`7 days` in seconds.

    Raises:
        ConfigError: it is no age.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(minute|hour|day|week)s?\s*", age)
    if match is None:
        raise ConfigError(
            f"--older-than {age}: give a number and minutes, hours, days or weeks, such as '7 days'"
        )
    return float(match[1]) * _UNITS[match[2]]


def find_garbage(store: CheckpointStore, *, older_than: float) -> Garbage:
    """What nothing refers to and nobody has written to for so long.

    A checkpoint is referred to by the report of a run, or by a checkpoint that is (its parent, its teacher). States
    belong to a stage that is not finished. The cache may be emptied at any time, so age alone decides there.

    Args:
        store: the store.
        older_than: seconds; younger things may belong to a run that has not written its report yet.
    """
    now = time.time()
    candidates = [
        *((path, "no run's report and no checkpoint refers to it") for path in _unreferred(store)),
        *((path, "of a stage that was never finished") for path in _stages(store, "states")),
        *((path, "can be made again") for path in _entries(store.cache)),
        *((path, "found damaged and moved aside") for path in _aside(store)),
    ]
    pieces = []
    for path, reason in candidates:
        size, written = _size_and_time(path)
        if (age := now - written) >= older_than:
            place = path.relative_to(store.root).as_posix()
            pieces.append(Piece(path=place, size=size, reason=reason, age=age))
    return Garbage(store=str(store.root), pieces=tuple(pieces), removed=False)


def remove_garbage(store: CheckpointStore, found: Garbage) -> Garbage:
    """Remove what was found, except what somebody is working on now."""
    gone, in_use = [], []
    idle = not _stages_being_made(store)
    for piece in found.pieces:
        path = store.root / piece.path
        # Any stage may be reading any part of the cache; one that begins now makes anew what it does not find.
        may_go = idle if path.is_relative_to(store.cache) else True
        if may_go and _remove(store, path):
            gone.append(piece)
        else:
            in_use.append(piece.path)
    return Garbage(store=found.store, pieces=tuple(gone), removed=True, in_use=tuple(in_use))


def print_garbage(found: Garbage, console: Console) -> None:
    """What goes, or went, as a table."""
    if found.pieces:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("removed" if found.removed else "would be removed", overflow="fold")
        table.add_column("MB", justify="right", no_wrap=True)
        table.add_column("days old", justify="right", no_wrap=True)
        table.add_column("why")
        for piece in found.pieces:
            size, days = f"{piece.size / 1e6:,.1f}", f"{piece.age / 86400:.1f}"
            table.add_row(piece.path, size, days, piece.reason)
        console.print(table)
    for path in found.in_use:
        console.print(f"left, because somebody is working on it: {path}", soft_wrap=True)
    total = f"{found.size / 1e6:,.1f} MB in {len(found.pieces)} places"
    if found.removed:
        console.print(f"removed {total} of {found.store}", soft_wrap=True)
    elif found.pieces:
        console.print(f"{total} of {found.store}; `distill gc --yes` removes them", soft_wrap=True)
    else:
        console.print(f"nothing to remove in {found.store}", soft_wrap=True)


def _unreferred(store: CheckpointStore) -> list[Path]:
    """Checkpoints that no report leads to, over any number of parents and teachers."""
    folders = {path.name[-16:]: path for path in _stages(store, "checkpoints")}
    texts = [path.read_text(encoding="utf-8") for path in (store.root / "runs").glob("*.json")]
    kept: set[str] = set()
    while texts:
        # A digest in any place counts: too much kept costs room, too little costs work.
        digests = {word[:16] for text in texts for word in re.findall(r"[0-9a-f]{16,64}", text)}
        reached = (digests & folders.keys()) - kept
        kept |= reached
        manifests = [folders[digest] / MANIFEST for digest in reached]
        texts = [path.read_text(encoding="utf-8") for path in manifests if path.is_file()]
    return [path for digest, path in sorted(folders.items()) if digest not in kept]


def _stages(store: CheckpointStore, part: str) -> list[Path]:
    return [path for path in _entries(store.root / part) if _STAGE_FOLDER.match(path.name)]


def _aside(store: CheckpointStore) -> list[Path]:
    return sorted((store.root / "checkpoints").glob(".damaged-*"))


def _entries(folder: Path) -> list[Path]:
    """The folders in a folder; of the cache's rows and tokens each by itself."""
    found: list[Path] = []
    for path in sorted(path for path in folder.glob("*") if path.is_dir()):
        nested = path.name in ("files", "tokens") and not path.is_symlink()
        found += _entries(path) if nested else [path]
    return found


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes below `path`, and when anything there was last written; links are not followed."""
    size, newest = 0, path.lstat().st_mtime
    inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    for each in inside:
        try:
            status = each.lstat()
        except FileNotFoundError:
            continue  # a running stage has just replaced it
        newest = max(newest, status.st_mtime)
        size += 0 if each.is_dir() else status.st_size
    return size, newest


def _remove(store: CheckpointStore, path: Path) -> bool:
    """Remove one thing unless its stage is being made; False if it is."""
    if not _STAGE_FOLDER.match(path.name):
        _take_away(path)
        return True
    with _held(store.root / "locks" / f"{path.name}.lock") as ours:
        if ours:
            _take_away(path)
        return ours


def _take_away(path: Path) -> None:
    # Renamed first: a folder that is half removed must not look like a damaged checkpoint.
    aside = path.with_name(files.temporary_name())
    try:
        with files.storage_errors(path.parent):
            os.replace(path, aside)
    except FileNotFoundError:
        return  # another process removed it first
    files.remove(aside)


def _stages_being_made(store: CheckpointStore) -> bool:
    for path in sorted((store.root / "locks").glob("*.lock")):
        with _held(path) as ours:
            if not ours:
                return True
    return False


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Whether nobody else has the lock; it is ours inside the block."""
    own = FileLock(lock)
    try:
        own.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        own.release()
