"""Records of the runs in a store: the stages they need and that no report names yet.

A run creates a record `open/NAME.jsonl` at its start, and adds every stage that it needs before it looks for it. The
record is locked while its process lives; the operating system frees the lock when the process dies, however it dies.
The record of a run that died stays, so that what it needs is kept until another run continues it. Records are written
under the store's gate, which `distill gc` holds while it decides and removes. So a stage is either recorded in time,
or gone before the run looks for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.files import storage_errors
from schemas.core.errors import DistillError, Interrupted
from schemas.core.regular_files import read_regular
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef
from stages.storage.sealed_folder import make_folder

FOLDER = "open"
_GATE, _CACHE = ".gate", ".cache"
_MOST_REASON = 500
"""Characters of the reason why a run failed."""
_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would wait for ever


class OpenRun:
    """The record of a run of this process; made by `open_run`."""

    def __init__(self, root: Path, path: Path, handle: int) -> None:
        self.root, self.path = root, path
        self._handle = handle
        self._needs: set[str] = set()

    def needs(self, digests: Iterable[str]) -> None:
        """Record stages, by digest, that must stay, on the disk itself; raises StoreError when that is refused."""
        new = {digest[:16] for digest in digests} - self._needs
        if not new:
            return
        with storage_errors(self.path.parent), gate(self.root):
            self._write({"needs": sorted(new)})
        self._needs |= new

    def _write(self, content: dict[str, object]) -> None:
        line = json.dumps({**content, "time": time.time()}, ensure_ascii=False) + "\n"
        os.write(self._handle, line.encode("utf-8"))
        os.fsync(self._handle)

    def _close(self, *, finished: bool) -> None:
        """Leave the record for a later run, unless nothing is left to continue."""
        if finished:
            # The needs of a run that died are in this run's report by now.
            for record in read_records(self.root):
                if not record.is_held and record.digests <= self._needs:
                    record.path.unlink(missing_ok=True)
        if finished or not self._needs:
            self.path.unlink(missing_ok=True)


@contextmanager
def open_run(root: Path, name: str) -> Iterator[OpenRun]:
    """Record a run in the store `root` and keep its cache in use for the block; raises StoreError when refused."""
    name = re.sub(r"[^\w.-]", "_", name)[:100]
    path = root / FOLDER / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}.jsonl"
    with cache_in_use(root):
        with storage_errors(path.parent):
            make_folder(path.parent)
            with gate(root):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                handle = os.open(path, flags, 0o644)
                fcntl.flock(handle, fcntl.LOCK_EX)
                run = OpenRun(root, path, handle)
                run._write({"run": name})
        finished = False
        try:
            yield run
            finished = True
        except DistillError as error:
            if not isinstance(error, Interrupted):
                with suppress(OSError):
                    run._write({"failed": str(error).partition("\n")[0][:_MOST_REASON]})
            raise
        finally:
            with suppress(OSError):  # an old record costs room until the next `distill gc`
                run._close(finished=finished)
            os.close(handle)


@dataclass(frozen=True)
class Record:
    """Content of the record of a run that is running or has died."""

    path: Path
    is_held: bool
    """True while its process lives."""
    digests: frozenset[str]
    """The first 16 digits of the digests of the stages that it needs."""
    written: float
    """Time of the last write in seconds since 1970, from its content or the file system, whichever is later."""
    failed: str | None = None
    """Why it failed; None while it runs, and if it was stopped or killed."""


def read_records(root: Path) -> list[Record]:
    """Every readable record of the store."""
    records = []
    for path in sorted((root / FOLDER).glob("*.jsonl")):
        try:
            held, text = is_held(path), read_regular(path).decode("utf-8", errors="replace")
            written = max(path.stat().st_mtime, last_time(text))
        except OSError:
            continue
        digests = (word[:16] for line in text.splitlines()[1:] for word in _DIGEST.findall(line))
        records.append(Record(path, held, frozenset(digests), written, _failed(text)))
    return records


def _failed(text: str) -> str | None:
    """The reason in the last line of a record, if it has one; a line may be cut off."""
    try:
        reason = json.loads(text.splitlines()[-1])["failed"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return reason if isinstance(reason, str) else None


def last_time(text: str) -> float:
    """The latest `"time": SECONDS` in a text that is not in the future; 0 where there is none."""
    times = (float(number) for number in re.findall(r'"time": ?(\d+(?:\.\d+)?)', text))
    now = time.time()
    return max((seconds for seconds in times if seconds <= now), default=0.0)


def needs_of(config: StageConfig, parent: CheckpointRef | str | None) -> set[str]:
    """Digests of the stages that a stage reads: its parent, its teachers, and another recipe's student."""
    digest = parent.digest if isinstance(parent, CheckpointRef) else parent
    return {*_DIGEST.findall(config.model_dump_json()), *([digest] if digest else ())}


def digests_in(text: str) -> set[str]:
    """The first 16 digits of everything in a text that may be a digest."""
    return {word[:16] for word in _DIGEST.findall(text)}


@contextmanager
def gate(root: Path) -> Iterator[None]:
    """Keep other processes from recording needs and removing garbage; raises OSError when it cannot be locked."""
    with _opened(_lock_file(root, _GATE)) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def cache_in_use(root: Path) -> Iterator[None]:
    """Keep the cache from being emptied; several processes may use it at once."""
    try:
        handle = _lock_file(root, _CACHE)
    except OSError:  # a store that cannot be written to cannot be emptied either
        yield
        return
    with _opened(handle):
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextmanager
def cache_unused(root: Path) -> Iterator[bool]:
    """Yield whether no process uses the cache; none begins to during the block."""
    with _opened(_lock_file(root, _CACHE)) as handle:
        yield _try_lock(handle)


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock on a file; raises FileNotFoundError when the file is gone."""
    with _opened(os.open(path, _READ_ONLY)) as handle:
        return not _try_lock(handle)


@contextmanager
def _opened(handle: int) -> Iterator[int]:
    """Close the handle after the block, which releases its lock."""
    try:
        yield handle
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file(root: Path, name: str) -> int:
    path = root / "locks" / name
    try:
        return os.open(path, _READ_ONLY)  # which a full disk does not refuse
    except FileNotFoundError:
        make_folder(path.parent)
        return os.open(path, _READ_ONLY | os.O_CREAT, 0o644)
