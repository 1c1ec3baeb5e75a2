"""The one thread that talks to MLflow's server.

A slow, hanging or dead server therefore never slows training. Points are read from their local
files and sent in batches; anything else is a job that the caller waits for, but not for long. The
first failure gives the one warning; after that the server is asked again now and then.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, TypeVar

from pipeline.tracking.points import Point, PointFile
from schemas.core.credentials import without_credentials

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_SECONDS = 30.0
_GATHER_SECONDS = 1.0


class Rejected(Exception):
    """The server is there and said no: asking again would not help."""


Send = Callable[[str, list[Point]], None]


class Worker:
    """Runs jobs and sends points in order, in one background thread; nothing raises out of it."""

    def __init__(self, send: Send, *, address: str, kept_in: Path, patience: float) -> None:
        self._send_points = send
        self._address, self._kept_in = without_credentials(address), kept_in
        self.patience = patience
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._files: dict[str, PointFile] = {}
        self._failed_at: float | None = None
        self._warned = False
        self._complained: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="distill-tracking", daemon=True)
        self._thread.start()

    @property
    def down(self) -> bool:
        """Whether the server failed lately, so that asking it again is not worth the wait yet."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < _RETRY_SECONDS

    @property
    def doubtful(self) -> bool:
        """Whether the server failed the last time it was asked, but may be asked again by now."""
        return self._failed_at is not None and not self.down

    def watch(self, run_id: str, file: PointFile) -> None:
        """Send what comes into `file` to that run, about once a second."""
        self._files[run_id] = file

    def ask(self, what: str, job: Callable[[], T], patience: float | None = None) -> T | None:
        """The job's answer.

        None when the server is down, says no, or takes longer than `patience` seconds (the worker's
        own when left out).
        """
        if self.down:
            return None
        patience = self.patience if patience is None else patience
        future: Future[T | None] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(None if self.down else self._guarded(what, job))

        self._jobs.put(run)
        try:
            return future.result(timeout=patience)
        except FutureTimeout:
            future.cancel()
            self.failed(f"no answer within {patience:.0f} s")
            return None

    def _guarded(self, what: str, job: Callable[[], T]) -> T | None:
        failed_before = self._failed_at
        try:
            answer = job()
        except Rejected as error:
            self.complain(what, error)
            return None
        except Exception as error:  # tracking must not stop a run, whatever MLflow raises
            self.failed(error)
            return None
        if self._failed_at == failed_before:
            self._recovered()
        return answer

    def complain(self, what: str, error: Exception | str) -> None:
        """Warn, once for each kind, that the server refused something."""
        if what not in self._complained:
            self._complained.add(what)
            log.warning("MLflow at %s refused %s: %s", self._address, what, brief(error))

    def failed(self, error: Exception | str) -> None:
        """Note that the server cannot be reached; warn the first time."""
        self._failed_at = time.monotonic()
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow at %s cannot be reached (%s); training goes on, and what it should know is kept in %s "
                "for the next run, or `distill sync`, to send",
                self._address,
                brief(error),
                self._kept_in,
            )

    def _recovered(self) -> None:
        if self._failed_at is not None:
            self._failed_at = None
            log.info("MLflow at %s can be reached again", self._address)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_GATHER_SECONDS)
            except queue.Empty:
                for run_id, file in list(self._files.items()):
                    self._send(run_id, file)
                continue
            if job is None:
                return
            job()

    def _send(self, run_id: str, file: PointFile) -> None:
        while not self.down and not file.all_sent():
            points, offset = file.unsent()
            if not points:
                file.mark_sent(offset)
                return
            sent = self._guarded_send(run_id, points)
            if not sent:
                return
            file.mark_sent(offset)

    def _guarded_send(self, run_id: str, points: list[Point]) -> bool:
        try:
            self._send_points(run_id, points)
        except Rejected as error:
            self.complain("some points", error)
            return True
        except Exception as error:  # as in _guarded
            self.failed(error)
            return False
        self._recovered()
        return True

    def flush(self, run_id: str) -> bool:
        """Whether the server has all points of that run; waits at most `patience` seconds."""
        file = self._files.get(run_id)
        if file is None:
            return False
        self.ask("points", lambda: self._send(run_id, file))
        return file.all_sent()

    def forget(self, run_id: str) -> None:
        """Stop sending that run's points."""
        self._files.pop(run_id, None)

    def close(self) -> None:
        """End the thread; waits at most `patience` seconds for what it is doing."""
        self._jobs.put(None)
        self._thread.join(timeout=0.1 if self.down else self.patience)


def brief(error: Any) -> str:
    """The error on one line of at most 200 characters, credentials taken out."""
    text = without_credentials(" ".join(str(error).split()))
    return text if len(text) <= 200 else text[:197] + "..."
