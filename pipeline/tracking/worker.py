"""The one thread that talks to MLflow, so that a slow or dead server never slows training."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline.tracking.client import Rejected, brief, refusals
from pipeline.tracking.run_files import PointFile
from pipeline.tracking.server import Complain, Server
from schemas.core.credentials import without_credentials

log = logging.getLogger(__name__)
T = TypeVar("T")

_PROBE_SECONDS = 5.0
_RETRY_SECONDS = 30.0
_GATHER_SECONDS = 1.0


class Worker:
    """The one background thread that talks to MLflow's server, so that a slow or dead server never slows training.

    Points are read from the watched files and sent in batches. Everything else is a job whose caller waits for at most
    `patience` seconds. The first failure is logged; after that the server is asked again every 30 seconds.

    Args:
        connect: returns the server, given what to call when it refuses something; called in the thread.
        address: MLflow's address, for messages.
        points: folder of the local files, for messages.
        patience: longest wait for one answer, in seconds.
    """

    def __init__(self, connect: Callable[[Complain], Server], address: str, points: Path, patience: float) -> None:
        self._connect, self._address, self._points = connect, without_credentials(address), points
        self.patience = patience
        self.watched: set[PointFile] = set()
        """Files of runs that the server knows; what is appended to them is sent about once a second."""
        self._server: Server | None = None
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._failed_at: float | None = None
        self._has_warned = False
        self._complaints: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="distill-tracking", daemon=True)
        self._thread.start()

    @property
    def is_down(self) -> bool:
        """True while the server failed so recently that asking it again is not worth the wait."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < _RETRY_SECONDS

    def ask(self, what: str, job: Callable[[Server], T]) -> T | None:
        """The answer of `job(server)`; None when the server is down, refuses, or takes longer than `patience`."""
        if self._failed_at is not None and not self.is_down:
            # A short question first: a server that still hangs must not hold up every stage anew.
            self._wait_for("whether it is back", Server.probe, min(self.patience, _PROBE_SECONDS))
        return self._wait_for(what, job, self.patience)

    def _wait_for(self, what: str, job: Callable[[Server], T], patience: float) -> T | None:
        if self.is_down:
            return None
        future: Future[T | None] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(None if self.is_down else self._try(what, job)[1])

        self._jobs.put(run)
        try:
            return future.result(timeout=patience)
        except FutureTimeout:
            future.cancel()
            self._fail(f"no answer within {patience:.0f} s")
            return None

    def _try(self, what: str, job: Callable[[Server], T]) -> tuple[bool, T | None]:
        """Return whether the server reacted to the job, be it with a refusal, and its answer."""
        failed_before = self._failed_at
        try:
            self._server = self._server or self._connect(self._complain)
            with refusals():
                answer = job(self._server)
        except Rejected as error:
            self._complain(what, error)
            return True, None
        except Exception as error:  # tracking must not stop a run, whatever MLflow raises
            self._fail(error)
            return False, None
        if self._failed_at is not None and self._failed_at == failed_before:
            self._failed_at = None
            log.info("MLflow at %s can be reached again", self._address)
        return True, answer

    def _complain(self, what: str, error: Exception) -> None:
        if what not in self._complaints:
            self._complaints.add(what)
            log.warning("MLflow at %s refused %s: %s", self._address, what, brief(error))

    def _fail(self, error: Exception | str) -> None:
        self._failed_at = time.monotonic()
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "MLflow at %s cannot be reached (%s); training continues, and everything for it is kept in %s until "
                "the next run, or `distill sync`, sends it",
                self._address,
                brief(error),
                self._points,
            )

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_GATHER_SECONDS)
            except queue.Empty:
                for file in list(self.watched):
                    self._send(file)
                continue
            if job is None:
                return
            job()

    def _send(self, file: PointFile) -> None:
        while not self.is_down and not file.is_sent:
            points, offset = file.unsent()
            if points and not self._try("some points", partial(Server.send_points, path=file.path, points=points))[0]:
                return
            file.mark_sent(offset)
            if not points:
                return

    def close(self) -> None:
        """End the thread; waits at most `patience` seconds for its current job."""
        self._jobs.put(None)
        self._thread.join(timeout=0.1 if self.is_down else self.patience)
