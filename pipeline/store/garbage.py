"""Garbage collection: what nothing in a store needs any more is found, and removed on request.

Needed is what a run's report leads to, what a running run has recorded (`open_runs`), what a run that died not long ago
left to continue from (its record, its states), and what a process has locked; each with its parents and teachers, over
any number of stages.
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

from pipeline.store import open_runs
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.files import storage_errors
from schemas.core.base import Frozen
from schemas.core.errors import ConfigError
from schemas.core.regular_files import read_regular
from stages.storage.sealed_folder import MANIFEST, remove, temporary_name

_STAGE_FOLDER = re.compile(r"^[a-z_]+-([0-9a-f]{16})$")
_UNITS = {"minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0}


class Piece(Frozen):
    """A file or folder that can be removed."""

    path: str
    """Path relative to the store."""
    size: int
    """Bytes."""
    reason: str
    """Why nothing needs it."""
    age: float
    """Seconds since it was last written."""


class Garbage(Frozen):
    """Everything that can be removed, or was."""

    store: str
    pieces: tuple[Piece, ...]
    removed: bool
    """True once it was removed; False while it is only listed."""
    older_than: float = 0.0
    """Seconds since the last write to each piece, at least."""
    in_use: tuple[str, ...] = ()
    """Pieces that were left because a process was using them."""

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.size for piece in self.pieces)


def seconds_of(age: str) -> float:
    """Convert an age such as `7 days` to seconds; raises ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(minute|hour|day|week)s?\s*", age)
    if match is None:
        raise ConfigError(f"--older-than {age}: give a number and minutes, hours, days or weeks, such as '7 days'")
    return float(match[1]) * _UNITS[match[2]]


def find_garbage(store: CheckpointStore, *, older_than: float) -> Garbage:
    """Everything that nothing needs and that was last written `older_than` seconds ago or earlier; writes nothing.

    States of an unfinished stage, and the record of their run, count as needed until they are that old. The cache may
    be emptied at any time, so age alone decides there.
    """
    now = time.time()
    needed = _needed(store, now - older_than)
    checkpoints, states = _stages(store, "checkpoints"), _stages(store, "states")
    reasons = {
        "no run and no checkpoint refers to it": [
            path
            for path in checkpoints
            if path.name[-16:] not in needed.stages and (store.remote is None or store.remote.is_sent(path.name))
        ],
        "of a stage that was never finished": [
            path for path in states if path.name[-16:] not in needed.unfinished or store.is_there(path.name)
        ],
        "can be made again": _entries(store.cache),
        "damaged and moved aside": sorted((store.root / "checkpoints").glob(".damaged-*")),
        "of a run that died": needed.dead_records,
    }
    pieces = []
    for reason, paths in reasons.items():
        for path in paths:
            size, written = _size_and_time(path)
            if written and (age := now - written) >= older_than:
                name = path.relative_to(store.root).as_posix()
                pieces.append(Piece(path=name, size=size, reason=reason, age=age))
    return Garbage(store=str(store.root), pieces=tuple(pieces), removed=False, older_than=older_than)


def remove_garbage(store: CheckpointStore, garbage: Garbage) -> Garbage:
    """Remove what was found, except what a process is using or has come to need since.

    Raises:
        StoreError: the file system refused.
    """
    gone: list[Piece] = []
    in_use: list[str] = []
    aside: list[Path] = []
    with storage_errors(store.root), open_runs.gate(store.root), open_runs.cache_unused(store.root) as is_unused:
        # While the gate is held no run records a need; runs that began since the search are seen here.
        is_idle = is_unused and not _locked_stages(store)
        still = {piece.path for piece in find_garbage(store, older_than=garbage.older_than).pieces}
        for piece in garbage.pieces:
            path = store.root / piece.path
            may_go = piece.path in still and (is_idle or not path.is_relative_to(store.cache))
            if may_go and _moved_aside(store, path, aside):
                gone.append(piece)
            elif piece.path in still or path.exists():
                in_use.append(piece.path)
    for path in aside:
        remove(path)
    return Garbage(
        store=garbage.store, pieces=tuple(gone), removed=True, older_than=garbage.older_than, in_use=tuple(in_use)
    )


@dataclass(frozen=True)
class _Needed:
    """Stages and records that must stay or may go, by the first 16 digits of digests."""

    stages: set[str]
    """Stages whose checkpoints must stay."""
    unfinished: set[str]
    """Stages whose states must stay."""
    dead_records: list[Path]
    """Records of runs that died long ago."""


def _needed(store: CheckpointStore, since: float) -> _Needed:
    """Collect what must stay; leftovers of dead processes count if written after `since` (seconds since 1970)."""
    records = open_runs.read_records(store.root)
    living = [record for record in records if record.is_held or record.written > since]
    locked = _locked_stages(store)
    states = {path.name[-16:]: _manifests_of_states(path) for path in _stages(store, "states")}
    unfinished = {digest for record in living for digest in record.digests}
    unfinished |= {digest for digest, (_, written) in states.items() if written > since}
    # A digest anywhere in a text counts: keeping too much costs space, keeping too little costs work.
    roots = [_text(path) for path in (store.root / "runs").glob("*.json")]
    roots += [*unfinished, *(text for digest, (text, _) in states.items() if digest in unfinished)]
    # A locked stage itself is listed, and left when it comes to it; what it reads is not even listed.
    holders = [*locked, *(text for digest, (text, _) in states.items() if digest in locked)]
    return _Needed(
        stages=_reached(store, roots) | (_reached(store, holders) - locked),
        unfinished=unfinished,
        dead_records=[record.path for record in records if record not in living],
    )


def _reached(store: CheckpointStore, texts: list[str]) -> set[str]:
    """Digests of the checkpoints that the texts lead to over any number of manifests."""
    folders = {path.name[-16:]: path for path in _stages(store, "checkpoints")}
    reached: set[str] = set()
    while texts:
        digests = {digest for text in texts for digest in open_runs.digests_in(text)}
        new = (digests & folders.keys()) - reached
        reached |= new
        texts = [_text(folders[digest] / MANIFEST) for digest in new]
    return reached


def _manifests_of_states(folder: Path) -> tuple[str, float]:
    """The manifests of the states in a folder, and the time of the last write; 0 where there is none."""
    steps = [name for name in _names(folder) if name.startswith("step-")]
    text = "".join(_text(folder / name / MANIFEST) for name in steps)
    return text, max(open_runs.last_time(text), _size_and_time(folder)[1]) if text else 0.0


def _names(folder: Path) -> list[str]:
    """Sorted names in a folder; none where it does not exist, or has just been removed."""
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


def _entries(folder: Path) -> list[Path]:
    """The folders in a folder; those of the cache's rows and tokens one by one."""
    entries: list[Path] = []
    for path in (folder / name for name in _names(folder)):
        if path.is_dir():
            is_nested = path.name in ("files", "tokens") and not path.is_symlink()
            entries += _entries(path) if is_nested else [path]
    return entries


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes below `path`, and time of the last write there; links are not followed.

    Files that a running stage has just replaced or removed are skipped.
    """
    size, newest = 0, 0.0
    inside = [path]
    for folder, folders, names in () if path.is_symlink() else os.walk(path):  # rglob fails on a vanishing folder
        inside += [Path(folder, name) for name in (*folders, *names)]
    for entry in inside:
        with suppress(FileNotFoundError):
            status = entry.lstat()
            newest = max(newest, status.st_mtime)
            size += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return size, newest


def _moved_aside(store: CheckpointStore, path: Path, aside: list[Path]) -> bool:
    """Rename a piece, to be removed later, and return True; False if its stage is being run.

    A half-removed folder must not look like a damaged checkpoint, and runs wait at the gate meanwhile.
    """
    with _stage_lock(store, path) as is_free:
        if is_free:
            with suppress(FileNotFoundError):  # another process removed it first
                beside = path.with_name(temporary_name())
                os.replace(path, beside)
                aside.append(beside)
        return is_free


@contextmanager
def _stage_lock(store: CheckpointStore, path: Path) -> Iterator[bool]:
    """Lock the stage of a folder for the block; False if another process holds it, True for any other path."""
    lock = FileLock(store.root / "locks" / f"{path.name}.lock") if _STAGE_FOLDER.match(path.name) else None
    try:
        if lock is not None:
            lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if lock is not None:
            lock.release()


def _locked_stages(store: CheckpointStore) -> set[str]:
    """Digests of the stages that a process is running now."""
    locks = [path for path in (store.root / "locks").glob("*.lock") if _STAGE_FOLDER.match(path.stem)]
    return {path.stem[-16:] for path in locks if open_runs.is_held(path)}
