"""Prefect's page of a run in progress: log lines, a progress artifact per part, and its wish to cancel or suspend.

Everything that asks Prefect's server happens in a thread of its own, so that a slow or dead server never slows
training.
"""

from __future__ import annotations

import contextvars
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect import runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingContextError, Pause
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED

from pipeline.process.stopping import Stopped
from pipeline.progress.lines import Lines
from pipeline.progress.parts import Part, RunProgress
from pipeline.progress.wording import ended_line, progress_line
from schemas.core.errors import Interrupted

_LOOK_SECONDS = 10.0
"""Time between two looks at the run's state, and between two updates of an artifact."""
_CLOSE_SECONDS = 3.0


@dataclass
class _Artifact:
    """The progress artifact of a part; made in the context of the part's task, which it then belongs to."""

    part: Part
    context: contextvars.Context
    id: UUID | None = None
    shown: tuple[float, str] = (-1.0, "")


def is_shown() -> bool:
    """Return whether lines and progress are sent to Prefect's server."""
    return bool(PREFECT_LOGGING_TO_API_ENABLED.value())


def prints_lines() -> bool:
    """Return whether Prefect itself prints the lines of a run, as in `distill serve`."""
    return logging.getLogger("prefect.flow_runs").isEnabledFor(logging.INFO)


class PrefectPage:
    """Shows a run on Prefect's page.

    Args:
        key: beginning of the artifacts' keys.
        stop: called with a reason once the page asks to cancel or to suspend the run.
        is_apart: True if the run above, if any, is of another process, so that suspending that one ends this one.
    """

    def __init__(self, key: str, stop: Callable[[str], None], *, is_apart: bool = False) -> None:
        self.key, self.stop, self.is_apart = key, stop, is_apart
        self.suspended: State | None = None
        """Prefect's state of the run, once the page has suspended it."""
        self._lines = Lines(self._say)
        self._logger: Any = None
        self._artifacts: list[_Artifact] = []
        self._run_ids = {str(runtime.flow_run.id), str(runtime.flow_run.root_flow_run_id)} - {"None"}
        self._wake, self._is_over = threading.Event(), False
        self._run: RunProgress | None = None
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._talk,), name="prefect-page", daemon=True
        )
        self._thread.start()

    def changed(self, run: RunProgress, part: Part | None) -> None:
        """Log the change, and show it in the part's artifact."""
        self._run = run
        self._lines.changed(run, part)
        if part is not None:
            if all(artifact.part is not part for artifact in self._artifacts):
                self._artifacts.append(_Artifact(part, contextvars.copy_context()))
            self._wake.set()

    def tick(self, run: RunProgress) -> None:
        """Log how far the run is, at most once a minute."""
        self._lines.tick(run)

    def note(self, message: str) -> None:
        """Log a line."""
        self._say(message)

    def close(self) -> None:
        """Send what is left, as far as the server takes it within seconds."""
        self._is_over = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    def _say(self, line: str) -> None:
        with suppress(MissingContextError):  # of another thread, which logs for the run or task that was last
            self._logger = _api_logger(get_run_logger())
        if self._logger is not None:
            self._logger.info(line)

    def _talk(self) -> None:
        looked = time.monotonic()
        while True:
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            is_over = self._is_over
            with suppress(Exception):  # a server that went away; whoever needs it says so
                for artifact in list(self._artifacts):
                    self._update(artifact)
            with suppress(Exception):
                if time.monotonic() - looked >= _LOOK_SECONDS:
                    looked = time.monotonic()
                    self._look()
            if is_over:
                return

    def _update(self, artifact: _Artifact) -> None:
        part, run = artifact.part, self._run
        assert run is not None
        is_running = part.state == "running"
        words = progress_line(run, part) if is_running else ended_line(part) or f"{part.name}: {part.state}"
        percent = 100.0 * (1.0 - part.rest)
        if artifact.shown == (percent, words):
            return
        artifact.shown = percent, words
        if artifact.id is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"{self.key}-{part.name}".lower()).strip("-")
            artifact.id = cast(UUID, artifact.context.run(create_progress_artifact, percent, key, words))
        else:
            artifact.context.run(update_progress_artifact, artifact.id, percent, words)

    def _look(self) -> None:
        """Read the run's state, and ask the run to stop if the page says so."""
        client = get_client(sync_client=True)  # the flow run's own, which it closes
        for run_id in self._run_ids:
            state = client.read_flow_run(UUID(run_id)).state
            if state is None:
                continue
            if state.is_paused():
                if not self.is_apart or run_id == str(runtime.flow_run.id):
                    self.suspended = state
                self.stop("Prefect's page suspends this run")
            elif state.is_cancelling() or state.is_cancelled():
                self.stop("Prefect's page cancels this run")


@contextmanager
def suspendable(page: PrefectPage) -> Iterator[PrefectPage]:
    """End a block that was stopped because the page suspends the run so that the page can resume it.

    Raises:
        Pause: Prefect's way to leave a suspended flow run.
    """
    try:
        yield page
    except (Interrupted, Stopped):
        if page.suspended is None:
            raise
        raise Pause(state=page.suspended) from None


def _api_logger(logger: Any) -> Any:
    """The run's logger, or where the command line has silenced it, one that writes to Prefect's server alone."""
    if logger.isEnabledFor(logging.INFO):
        return logger
    child = logger.getChild("distill")
    if not child.logger.handlers:
        child.logger.addHandler(APILogHandler())
        child.logger.setLevel(logging.INFO)
        child.logger.propagate = False
    return child
