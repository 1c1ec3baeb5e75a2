"""What a store holds that nothing needs any more: found, shown, and removed when asked.

Needed is what the report of a run leads to, what a run that is going on has noted (`open_runs`), what a run that died
not long ago left to go on with (its record, its states), and what somebody has locked; each with its parents and
teachers, over any number of stages.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.store import files, open_runs
from pipeline.store.checkpoints import MANIFEST, CheckpointStore
from schemas.core.base import Frozen
from schemas.core.errors import ConfigError
from schemas.core.regular_files import read_regular

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
    older_than: float = 0.0
    """Seconds for which nobody has written to it."""
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
        raise ConfigError(f"--older-than {age}: give a number and minutes, hours, days or weeks, such as '7 days'")
    return float(match[1]) * _UNITS[match[2]]


def find_garbage(store: CheckpointStore, *, older_than: float) -> Garbage:
    """Everything that nothing needs and nobody has written to for so long; writes nothing.

    The states of a stage that was never finished, and what their run had noted, count as needed until they are older
    than asked. The cache may be emptied at any time, so age alone decides there.

    Args:
        store: the store.
        older_than: seconds.
    """
    now = time.time()
    needed = _needed(store, now - older_than)
    candidates = [
        *((path, "no run and no checkpoint refers to it") for path in _unneeded(store, needed)),
        *((path, "of a stage that was never finished") for path in _left_states(store, needed)),
        *((path, "can be made again") for path in _entries(store.cache)),
        *((path, "found damaged and moved aside") for path in _aside(store)),
        *((path, "of a run that died") for path in needed.left_records),
    ]
    pieces = []
    for path, reason in candidates:
        size, written = _size_and_time(path)
        if written and (age := now - written) >= older_than:
            place = path.relative_to(store.root).as_posix()
            pieces.append(Piece(path=place, size=size, reason=reason, age=age))
    return Garbage(store=str(store.root), pieces=tuple(pieces), removed=False, older_than=older_than)


def remove_garbage(store: CheckpointStore, found: Garbage) -> Garbage:
    """Remove what was found, except what somebody works on, or has begun to need, since.

    Raises:
        StoreError: the file system refused.
    """
    gone: list[Piece] = []
    in_use: list[str] = []
    aside: list[Path] = []
    with files.storage_errors(store.root), open_runs.gate(store.root), _cache_idle(store) as idle:
        # Nobody can begin to need anything now; who began since the search is seen here.
        still = {piece.path for piece in find_garbage(store, older_than=found.older_than).pieces}
        for piece in found.pieces:
            path = store.root / piece.path
            may_go = piece.path in still and (idle or not path.is_relative_to(store.cache))
            if may_go and _taken_away(store, path, aside):
                gone.append(piece)
            elif piece.path in still or path.exists():
                in_use.append(piece.path)
    for path in aside:
        files.remove(path)
    return Garbage(
        store=found.store, pieces=tuple(gone), removed=True, older_than=found.older_than, in_use=tuple(in_use)
    )


@dataclass(frozen=True)
class _Needed:
    """What must stay, by the first 16 digits of digests."""

    stages: frozenset[str]
    """Whose checkpoints must stay."""
    unfinished: frozenset[str]
    """Whose states must stay."""
    left_records: tuple[Path, ...]
    """Records of runs that died long ago."""


def _needed(store: CheckpointStore, since: float) -> _Needed:
    """What must stay, where what was left behind counts if it was written after `since` (seconds since 1970)."""
    records = open_runs.read_records(store.root)
    living = [record for record in records if record.held or record.written > since]
    named = frozenset[str]().union(*(record.digests for record in living))
    held = frozenset(path.stem[-16:] for path in _held_locks(store))
    states = {path.name[-16:]: _said_of_states(path) for path in _stages(store, "states")}
    left = named | {digest for digest, (_, written) in states.items() if written > since}
    # A digest in any place counts: too much kept costs room, too little costs work.
    roots = [_text(path) for path in (store.root / "runs").glob("*.json")]
    roots += [*left, *(text for digest, (text, _) in states.items() if digest in left)]
    # What somebody holds is shown, and left when it comes to it; what it reads is not even shown.
    holders = [*held, *(text for digest, (text, _) in states.items() if digest in held)]
    return _Needed(
        stages=frozenset(_reached(store, roots) | (_reached(store, holders) - held)),
        unfinished=frozenset(left),
        left_records=tuple(record.path for record in records if record not in living),
    )


def _reached(store: CheckpointStore, texts: list[str]) -> set[str]:
    """Digests that the texts lead to over any number of manifests."""
    folders = {path.name[-16:]: path for path in _stages(store, "checkpoints")}
    kept: set[str] = set()
    while texts:
        digests = {word for text in texts for word in open_runs.digests_in(text)}
        reached = (digests & folders.keys()) - kept
        kept |= reached
        manifests = [folders[digest] / MANIFEST for digest in reached]
        texts = [_text(path) for path in manifests]
    return kept


def _unneeded(store: CheckpointStore, needed: _Needed) -> list[Path]:
    stages = _stages(store, "checkpoints")
    return [path for path in stages if path.name[-16:] not in needed.stages]


def _left_states(store: CheckpointStore, needed: _Needed) -> list[Path]:
    return [
        path
        for path in _stages(store, "states")
        if path.name[-16:] not in needed.unfinished or store.is_there(path.name)
    ]


def _said_of_states(folder: Path) -> tuple[str, float]:
    """What the states in a folder say of themselves, and when the last one was written; 0 where there is none."""
    steps = [name for name in _names(folder) if name.startswith("step-")]
    said = "".join(_text(folder / name / MANIFEST) for name in steps)
    return said, max(open_runs.last_time(said), _size_and_time(folder)[1]) if said else 0.0


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted; nothing where it is not there, or has just been removed."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _text(path: Path) -> str:
    """A file's text; empty where it cannot be read, or has just been removed."""
    try:
        return read_regular(path).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _stages(store: CheckpointStore, part: str) -> list[Path]:
    return [path for path in _entries(store.root / part) if _STAGE_FOLDER.match(path.name)]


def _aside(store: CheckpointStore) -> list[Path]:
    return sorted((store.root / "checkpoints").glob(".damaged-*"))


def _entries(folder: Path) -> list[Path]:
    """The folders in a folder; of the cache's rows and tokens each by itself."""
    found: list[Path] = []
    for path in (folder / name for name in _names(folder)):
        if not path.is_dir():
            continue
        nested = path.name in ("files", "tokens") and not path.is_symlink()
        found += _entries(path) if nested else [path]
    return found


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes below `path`, and when anything there was last written; links are not followed.

    What a running stage has just replaced or removed counts for nothing.
    """
    size, newest = 0, 0.0
    inside = [path]
    walked = () if path.is_symlink() else os.walk(path)  # rglob would fail where a folder goes
    for folder, folders, names in walked:
        inside += [Path(folder, name) for name in (*folders, *names)]
    for each in inside:
        with suppress(FileNotFoundError):
            status = each.lstat()
            newest = max(newest, status.st_mtime)
            size += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return size, newest


def _taken_away(store: CheckpointStore, path: Path, aside: list[Path]) -> bool:
    """Rename one thing, which is removed later, unless its stage is being made; False if it is."""
    if not _STAGE_FOLDER.match(path.name):
        _take_away(path, aside)
        return True
    with _held(store.root / "locks" / f"{path.name}.lock") as ours:
        if ours:
            _take_away(path, aside)
        return ours


def _take_away(path: Path, aside: list[Path]) -> None:
    # A folder that is half removed must not look like a damaged checkpoint, and runs wait at the gate meanwhile.
    beside = path.with_name(files.temporary_name())
    try:
        os.replace(path, beside)
    except FileNotFoundError:
        return  # another process removed it first
    aside.append(beside)


def _held_locks(store: CheckpointStore) -> list[Path]:
    """The locks of stages that are being made."""
    found = [path for path in (store.root / "locks").glob("*.lock") if _STAGE_FOLDER.match(path.stem)]
    return [path for path in found if open_runs.is_held(path)]


@contextmanager
def _cache_idle(store: CheckpointStore) -> Iterator[bool]:
    """Whether nobody may be reading any part of the cache."""
    with open_runs.cache_unused(store.root) as unused:
        yield unused and not _held_locks(store)


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
