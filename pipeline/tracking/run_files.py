"""The local files of a run: its points, the requests that no server has taken yet, and a note of what was sent.

`KEY.jsonl` holds a header line, a line per log call (run, step, time in ms, metrics) and how the run ended. `KEY.sent`
says how far a server has it. `KEY.unsent/` has a numbered folder per request: `request.json` and the artifacts in
`files/`. A request appears by one rename and is removed once a server has it. This module knows nothing of MLflow.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field

from pipeline.store.files import storage_errors
from schemas.core.base import Frozen
from schemas.core.errors import StoreError
from stages.storage.sealed_folder import files_in, make_folder, remove, sweep, sync, sync_tree, unfinished

log = logging.getLogger(__name__)

LOCAL = "local-"
"""Prefix of the keys of runs that no server knew when they began."""
_LONGEST_END = 1024
_LONGEST_LINE = 8_000_000
_MOST_METRICS = 1000
"""Metrics of one point; a run may have ten times as many names. Larger lines were not written by this module."""
_MOST_NAME = 250
_HIGHEST = 2**63 - 1
_HEADER = {"name": str, "experiment": str, "params": dict, "tags": dict}
_REQUEST, _FILES = "request.json", "files"
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Point:
    """Metrics at one optimizer step."""

    step: int
    time: int
    """Milliseconds since 1970, UTC; never less than that of the previous point."""
    metrics: dict[str, float]


class PointFile:
    """The points of one run.

    A value at a step that an earlier process had logged, at a step before the newest, or equal to the newest at the
    same step is dropped. A different value at the newest step, as from a final evaluation, is a further point.
    """

    def __init__(self, path: Path, header: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[int, float]] = {}
        self._time = 0
        self._has_warned = False
        self._size = 0
        for point in read_points(path):
            self._remember(point)
        self._resumed_from = {name: step for name, (step, _) in self._newest.items()}
        with storage_errors(path.parent):
            self._open(header or {})
        self._sent = min(int(read_sent(path).get("offset", 0)), self._size)

    def _open(self, header: Mapping[str, Any]) -> None:
        make_folder(self.path.parent)
        if not self.path.exists() or not self.path.stat().st_size:  # `claim` creates an empty file
            self._write({"time": _now(), "header": dict(header)})
            return
        with self.path.open("rb+") as file:
            # A process killed while writing leaves half a line, which must not swallow the next one.
            if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")
            self._size = file.seek(0, 2)

    def append(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Write the metrics that are new at this step; False when none is.

        Raises:
            StoreError: the file system refused. A run that continues from its last state logs them again.
        """
        with self._lock:
            fresh = {name: float(value) for name, value in metrics.items() if self._is_new(name, step, float(value))}
            if not fresh:
                return False
            again = any(self._newest.get(name, (-1,))[0] == step for name in fresh)
            point = Point(step, max(self._time + again, _now()), fresh)
            with storage_errors(self.path.parent):
                self._write({"step": point.step, "time": point.time, "metrics": fresh})
            self._remember(point)
            return True

    def _is_new(self, name: str, step: int, value: float) -> bool:
        newest, last = self._newest.get(name, (-1, math.nan))
        if step <= self._resumed_from.get(name, -1) or step < newest:
            return False
        return step > newest or value != last

    def end(self, status: str, at: int | None = None) -> None:
        """Record the end of the run; if that fails the run looks like that of a killed process.

        Args:
            status: FINISHED, FAILED or KILLED.
            at: milliseconds since 1970; None for now.
        """
        with self._lock, self._warning():
            self._write({"ended": status, "time": _now() if at is None else at})

    def _remember(self, point: Point) -> None:
        self._time = max(self._time, point.time)
        for name, value in point.metrics.items():
            is_known = name in self._newest
            if (is_known or len(self._newest) < 10 * _MOST_METRICS) and point.step >= self._newest.get(name, (-1,))[0]:
                self._newest[name] = (point.step, value)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps({"run": self.path.stem, **line}, ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            file.write(data.encode("utf-8"))
            file.flush()
            self._size = file.tell()

    @contextmanager
    def _warning(self) -> Iterator[None]:
        """Log the first failure of the file system, as a note about what was sent must not stop training."""
        try:
            yield
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                log.warning("what MLflow has of %s cannot be recorded (%s)", self.path, error.strerror)

    def unsent(self, most: int = 1000) -> tuple[list[Point], int]:
        """The next points that no server has, about `most` values of them, and the offset behind them in bytes."""
        points: list[Point] = []
        count, offset = 0, self._sent
        if offset >= self._size:
            return points, offset
        with self._warning(), self.path.open("rb") as file:
            file.seek(offset)
            for line, length in _lines_of(file):
                if not line.endswith(b"\n"):
                    break  # it is being written right now
                if (point := _parse(line)) is not None:
                    count += len(point.metrics)
                    if points and count > most:
                        break
                    points.append(point)
                offset += length
        return points, offset

    def mark_sent(self, offset: int) -> None:
        """Record that a server has everything before `offset` (bytes)."""
        self._sent = offset
        with self._warning():
            note_sent(self.path, offset=offset)

    @property
    def is_sent(self) -> bool:
        """True once a server has every point."""
        return self._sent >= self._size


def read_points(path: Path) -> Iterator[Point]:
    """Every whole point of a file, in order; unreadable lines are skipped."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line, _ in _lines_of(file):
            if (point := _parse(line)) is not None:
                yield point


def num_points(path: Path, offset: int) -> int:
    """Number of points of a file from `offset` (bytes) on."""
    with path.open("rb") as file:
        file.seek(offset)
        return sum(_parse(line) is not None for line, _ in _lines_of(file))


def read_header(path: Path) -> dict[str, Any]:
    """The header of a run, without entries of the wrong type; empty when the file has none."""
    header: dict[str, Any] = next((line["header"] for line in _lines(path) if isinstance(line.get("header"), dict)), {})
    header = {name: value for name, value in header.items() if isinstance(value, _HEADER.get(name, ()))}
    if tags := header.get("tags"):
        header["tags"] = {name: value for name, value in tags.items() if isinstance(value, str)}
    return header


def read_start(path: Path) -> int | None:
    """Start of the run in milliseconds since 1970; None when the file does not say."""
    times = (line.get("time") for line in _lines(path))
    return next((time for time in times if isinstance(time, int) and 0 <= time <= _HIGHEST), None)


def read_end(path: Path) -> tuple[str, int] | None:
    """Status and time (milliseconds since 1970) of the run's end; None while it is running or if it was killed."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_END))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        value = json.loads(last)
        return str(value["ended"]), min(max(int(value["time"]), 0), _HIGHEST)
    except UNREADABLE:
        return None


def has_finished(path: Path) -> bool:
    """Return whether the run ended as FINISHED."""
    return (read_end(path) or ("",))[0] == "FINISHED"


def read_sent(path: Path) -> dict[str, Any]:
    """Return the note of what a server has: `offset`, and once known `run_id` and `ended` (time of the end)."""
    try:
        value = json.loads(path.with_suffix(".sent").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def note_sent(path: Path, **news: str | int) -> None:
    """Record more of what a server has of a file; raises OSError when that cannot be written."""
    beside = path.with_suffix(".sent.new")
    beside.write_text(json.dumps({**read_sent(path), **news}), encoding="utf-8")
    beside.replace(path.with_suffix(".sent"))


def server_run(path: Path) -> str | None:
    """MLflow's id of the run: its key, or the recorded id of a run that began without a server."""
    if not path.stem.startswith(LOCAL):
        return path.stem
    value = read_sent(path).get("run_id")
    return value if isinstance(value, str) else None


def runs_tagged(points: Path, tag: str, value: str) -> list[Path]:
    """Files of the runs that began with that tag."""
    return [path for path in sorted(points.glob("*.jsonl")) if read_header(path).get("tags", {}).get(tag) == value]


def end_dead_runs(points: Path) -> None:
    """Record every run whose process died as KILLED at the time of its last line."""
    for path in sorted(points.glob("*.jsonl")):
        try:
            status = path.stat()
            # An empty file was claimed a moment ago by a process that is about to write into it.
            if not status.st_size or read_end(path) is not None or (handle := claim(path)) is None:
                continue
        except OSError:
            continue
        try:
            if read_end(path) is None:
                with suppress(StoreError):  # a store that cannot be written keeps the run as it is
                    PointFile(path).end("KILLED", status.st_mtime_ns // 1_000_000)
        finally:
            release(handle)


def claim(path: Path, *, make: bool = False) -> int | None:
    """Lock a file for this part of this process; None when another one holds it.

    The operating system frees the lock with the process. With `make` a missing file is created empty, so that it is
    never there and free. `release` takes the handle that is returned.
    """
    try:
        handle = os.open(path, os.O_RDONLY | (os.O_CREAT if make else 0), 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def release(handle: int | None) -> None:
    """Unlock a claimed file."""
    if handle is not None:
        os.close(handle)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line, _ in _lines_of(file):
            with suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value


def _lines_of(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Every line and its length in bytes; of a line too long to be written here, only the end, to save memory."""
    while line := file.readline(_LONGEST_LINE):
        length, last = len(line), line
        while len(last) == _LONGEST_LINE and not last.endswith(b"\n"):
            last = file.readline(_LONGEST_LINE)
            length += len(last)
        yield (line if last is line else last[-1:]), length


def _parse(line: bytes) -> Point | None:
    if b'"metrics"' not in line or not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        metrics = {str(name): float(number) for name, number in value["metrics"].items()}
        point = Point(int(value["step"]), int(value["time"]), metrics)
    except UNREADABLE:
        return None
    is_valid = 0 <= point.step <= _HIGHEST and 0 <= point.time <= _HIGHEST
    is_valid &= len(metrics) <= _MOST_METRICS and max(map(len, metrics), default=0) <= _MOST_NAME
    return point if is_valid else None


class Request(Frozen):
    """Something to tell a server about a run besides its points."""

    kind: Literal["artifacts", "model", "tags", "data_set", "view"]
    """Files to store, a model with its files, tags to set, a data set that the run has read, or a view of MLflow's page
    that shows it."""
    values: dict[str, str] = Field(default_factory=dict)
    """For artifacts their folder in the run as `path` (absent: its root); tags by name; fields of the data set, or of
    the model (`logged_models`); the `state` of a view (`views`)."""


@dataclass(frozen=True)
class KeptRequest:
    """A request on disk."""

    folder: Path
    request: Request

    @property
    def files(self) -> Path:
        """Folder of the artifacts' files."""
        return self.folder / _FILES

    def remove(self) -> None:
        """Remove the request, since a server has it."""
        remove(self.folder)
        with suppress(OSError):
            self.folder.parent.rmdir()  # only where it was the last one


class Outbox:
    """The kept requests of the run with that file of points."""

    def __init__(self, points: Path) -> None:
        self.folder = points.with_suffix(".unsent")

    def keep(self, request: Request, files: Path | None = None) -> None:
        """Keep a request and a copy of its files; raises StoreError when the file system refuses."""
        with storage_errors(self.folder):
            sweep(self.folder)
            with unfinished(self.folder) as folder:
                for name in files_in(files) if files is not None else ():
                    (folder / _FILES / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(files / name, folder / _FILES / name)  # type: ignore[operator]
                (folder / _REQUEST).write_text(request.model_dump_json(), encoding="utf-8")
                sync_tree(folder)
                number = max((int(path.name) for path in self._folders()), default=0) + 1
                os.replace(folder, self.folder / f"{number:06d}")
                sync(self.folder)

    @property
    def is_empty(self) -> bool:
        """True while no request is kept."""
        return not self._folders()

    def requests(self) -> list[KeptRequest]:
        """The kept requests, oldest first; an unreadable one stays on disk and is left out."""
        requests = []
        for folder in self._folders():
            try:
                request = Request.model_validate_json((folder / _REQUEST).read_bytes())
            except (OSError, ValueError):
                log.warning("%s cannot be read and is not sent", folder / _REQUEST)
                continue
            requests.append(KeptRequest(folder, request))
        return requests

    def _folders(self) -> list[Path]:
        numbered = (path for path in self.folder.glob("*") if path.name.isdecimal())
        return sorted(numbered, key=lambda path: int(path.name))
