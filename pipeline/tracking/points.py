"""Metric points in a local file, before any server sees them.

A file is a run: a header line, then a line per log call (run, step, time in ms, metrics), then
how it ended. Beside it `KEY.sent` says how far a server has it. So a slow or dead server costs
nothing, a resumed stage knows which steps were logged before, and what was kept can be sent
later (what else was said is in `tracking_outbox`). Knows nothing of MLflow.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.store.files import storage_errors
from schemas.core.errors import StoreError
from stages.storage.sealed_folder import make_folder

log = logging.getLogger(__name__)

LOCAL = "local-"
"""Begins the names of files whose runs no server knew when they began."""
_LONGEST_END = 1024
_LONGEST_LINE = 8_000_000
_MOST_METRICS = 1000
"""Of a point; and of a run ten times as many names. What is beyond was not written by us."""
_MOST_NAME = 250
_HIGHEST = 2**63 - 1
_HEADER = {"name": str, "experiment": str, "params": dict, "tags": dict}


@dataclass(frozen=True)
class Point:
    """Metrics at one optimizer step."""

    step: int
    time: int
    """Milliseconds since 1970, UTC; never less than that of the point before."""
    metrics: dict[str, float]


class PointFile:
    """One run's points, in the store like everything else that a run cannot have twice.

    A metric's value at a step that an earlier process had logged, or that is passed, is dropped; so
    is the same value once more. Another value at the newest step, as a final evaluation may bring,
    is a point of its own with a later time.
    """

    def __init__(self, path: Path, header: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.key = path.stem
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[int, float]] = {}
        self._time = 0
        self._broken = False
        self._size = 0
        for point in read_points(path):
            self._note(point)
        self._resumed_from = {name: step for name, (step, _) in self._newest.items()}
        with storage_errors(path.parent):
            self._open(header or {})
        self._sent = min(int(read_sent(path).get("offset", 0)), self._size)

    def _open(self, header: Mapping[str, Any]) -> None:
        make_folder(self.path.parent)
        if not self.path.exists() or not self.path.stat().st_size:  # a claim makes an empty one
            now = time.time_ns() // 1_000_000
            self._write({"run": self.key, "time": now, "header": dict(header)})
            return
        with self.path.open("rb+") as file:
            content_ends = file.seek(0, 2)
            # A process killed while writing leaves half a line; it must not swallow the next one.
            if content_ends and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")
            self._size = file.seek(0, 2)

    def append(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Note the metrics that are new at this step; False when none is.

        Raises:
            StoreError: the file system refused. A run that goes on from its last state logs them again.
        """
        with self._lock:
            fresh = {name: float(value) for name, value in metrics.items() if self._is_new(name, step, float(value))}
            if not fresh:
                return False
            again = any(self._newest.get(name, (-1,))[0] == step for name in fresh)
            point = Point(step, max(self._time + again, time.time_ns() // 1_000_000), fresh)
            line = {"run": self.key, "step": point.step, "time": point.time, "metrics": fresh}
            with storage_errors(self.path.parent):
                self._write(line)
            self._note(point)
            return True

    def _is_new(self, name: str, step: int, value: float) -> bool:
        newest, last = self._newest.get(name, (-1, math.nan))
        if step <= self._resumed_from.get(name, -1) or step < newest:
            return False
        return step > newest or value != last

    def end(self, status: str, at: int | None = None) -> None:
        """Note how the run ended; one that cannot be noted looks like a killed one's.

        Args:
            status: FINISHED, FAILED or KILLED.
            at: milliseconds since 1970; None for now.
        """
        at = time.time_ns() // 1_000_000 if at is None else at
        with self._lock:
            try:
                self._write({"run": self.key, "ended": status, "time": at})
            except OSError as error:
                self._give_up(error)

    def _note(self, point: Point) -> None:
        self._time = max(self._time, point.time)
        for name, value in point.metrics.items():
            if name not in self._newest and len(self._newest) >= 10 * _MOST_METRICS:
                continue
            if point.step >= self._newest.get(name, (-1, 0.0))[0]:
                self._newest[name] = (point.step, value)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8")
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            self._size = file.tell()

    def _give_up(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            log.warning("what MLflow has of %s cannot be noted (%s)", self.path, error.strerror)

    def unsent(self, most: int = 1000) -> tuple[list[Point], int]:
        """Points that no server has yet, about `most` values of them, and the offset behind."""
        points: list[Point] = []
        count, offset = 0, self._sent
        if offset >= self._size:
            return points, offset
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                for line, length in _lines_of(file):
                    if not line.endswith(b"\n"):
                        break  # it is being written right now
                    point = _parse(line)
                    if point is not None:
                        count += len(point.metrics)
                        if points and count > most:
                            break
                        points.append(point)
                    offset += length
        except OSError as error:
            self._give_up(error)
        return points, offset

    def mark_sent(self, offset: int) -> None:
        """Note that a server has everything before `offset` (bytes)."""
        self._sent = offset
        try:
            note_sent(self.path, offset=offset)
        except OSError as error:
            self._give_up(error)

    def all_sent(self) -> bool:
        """Whether a server has everything."""
        return self._sent >= self._size


def read_points(path: Path) -> Iterator[Point]:
    """Every whole point of a file, in order; lines that cannot be read are passed over."""
    try:
        with path.open("rb") as file:
            for line, _ in _lines_of(file):
                if (point := _parse(line)) is not None:
                    yield point
    except FileNotFoundError:
        return


def read_header(path: Path) -> dict[str, Any]:
    """What the run was opened with, as far as it can have been ours; empty when the file has no header."""
    header: dict[str, Any] = next((line["header"] for line in _lines(path) if isinstance(line.get("header"), dict)), {})
    kept: dict[str, Any] = {key: value for key, value in header.items() if isinstance(value, _HEADER.get(key, ()))}
    tags: dict[str, Any] = kept.get("tags", {})
    return kept | ({"tags": {key: value for key, value in tags.items() if isinstance(value, str)}} if tags else {})


def read_start(path: Path) -> int | None:
    """When the run began, in milliseconds since 1970; None when the file does not say."""
    times = (line.get("time") for line in _lines(path))
    return next((time for time in times if isinstance(time, int) and 0 <= time <= _HIGHEST), None)


def read_end(path: Path) -> tuple[str, int] | None:
    """How and when (in milliseconds since 1970) the run ended; None when it goes on or was killed."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_END))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        value = json.loads(last)
        return str(value["ended"]), min(max(int(value["time"]), 0), _HIGHEST)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def num_points(path: Path, offset: int) -> int:
    """How many points a file has from `offset` (bytes) on."""
    with path.open("rb") as file:
        file.seek(offset)
        return sum(_parse(line) is not None for line, _ in _lines_of(file))


def read_sent(path: Path) -> dict[str, Any]:
    """What a server has of a file: `offset`, and where it is known `run_id` and when it `ended`."""
    try:
        value = json.loads(path.with_suffix(".sent").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def note_sent(path: Path, **news: str | int) -> None:
    """Note more of what a server has of a file; raises OSError when the note cannot be written."""
    beside = path.with_suffix(".sent.new")
    beside.write_text(json.dumps({**read_sent(path), **news}), encoding="utf-8")
    beside.replace(path.with_suffix(".sent"))


def server_run(path: Path) -> str | None:
    """The server's run of a file: its name, or what was noted of a run first kept here alone."""
    if not path.stem.startswith(LOCAL):
        return path.stem
    value = read_sent(path).get("run_id")
    return value if isinstance(value, str) else None


def has_finished(path: Path) -> bool:
    """Whether the run of a file came to its end and said so."""
    end = read_end(path)
    return end is not None and end[0] == "FINISHED"


def runs_tagged(points: Path, tag: str, value: str) -> list[Path]:
    """Files of the runs that began with that tag."""
    return [path for path in sorted(points.glob("*.jsonl")) if read_header(path).get("tags", {}).get(tag) == value]


def end_dead_runs(points: Path) -> None:
    """Note of every run whose process died that it was KILLED, at the time of its last words."""
    for path in sorted(points.glob("*.jsonl")):
        try:
            at, size = path.stat().st_mtime_ns // 1_000_000, path.stat().st_size
            # An empty one was claimed a moment ago, by a process that is about to write into it.
            if not size or read_end(path) is not None or (handle := claim(path)) is None:
                continue
        except OSError:
            continue
        try:
            if read_end(path) is None:
                with suppress(StoreError):  # it cannot be told, then, that anything is to be told
                    PointFile(path).end("KILLED", at)
        finally:
            release(handle)


def claim(path: Path, *, make: bool = False) -> int | None:
    """Takes a file for this process; None when another process, or another part of this one, has it.

    The claim is a lock of the operating system on the open file, so that it goes with its process.

    Args:
        path: the file.
        make: whether to make an empty one where there is none, so that no moment is left in which it is there and free.

    Returns:
        What `release` takes.
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
    """Gives a claimed file back."""
    if handle is not None:
        os.close(handle)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line, _ in _lines_of(file):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def _lines_of(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Every line and its length in bytes; only the end of one that is longer than any of ours and would fill memory."""
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
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    ours = 0 <= point.step <= _HIGHEST and 0 <= point.time <= _HIGHEST
    ours &= len(metrics) <= _MOST_METRICS and max(map(len, metrics), default=0) <= _MOST_NAME
    return point if ours else None
