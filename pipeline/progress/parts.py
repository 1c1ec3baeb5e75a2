"""The parts of a run and their states; every view of a run in progress is drawn from here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from schemas.core.errors import Interrupted

State = Literal["waiting", "running", "done", "reused", "stopped", "failed"]
TRAINING = "training"
_TICK_SECONDS = 0.5
_FEWEST_STEPS = 2
"""Steps before a rate is known: the first one is slow, since it compiles and reserves memory."""


@dataclass
class Part:
    """A teacher, a stage, a baseline or the closing table in the course of a run."""

    name: str
    """`general`, or `mrpc/general` where there are several tasks."""
    work: float | None = None
    """Operations of its training, as estimated by the plan; 0 without training; None if unknown."""
    state: State = "waiting"
    activity: str = ""
    """Present activity: starting, training, judging, …"""
    began: float = 0.0
    since: float = 0.0
    """`time.monotonic()` when the part, and its present activity, began."""
    done: int = 0
    total: int = 0
    """Units of the present activity, steps if it trains; a total of 0 if they are not counted."""
    first: int = 0
    """Units that an earlier process had done."""
    loss: float | None = None
    speed: float | None = None
    """Tokens per second."""
    trained: float = 0.0
    """Seconds of training in this process."""
    share: float = 0.0
    """Share of the training that was done in these seconds."""
    rest: float = 1.0
    """Share of the training that is left."""
    result: str = ""
    """Scores, once it is judged."""
    detail: str = ""
    """Path of the checkpoint that is reused; empty if it is made."""
    seconds: float = 0.0
    """Time from begin to end."""

    def left(self) -> float | None:
        """Seconds until the present activity ends; None if unknown."""
        if self.activity == TRAINING:
            steps, seconds = self.done - self.first, self.trained
        else:
            steps, seconds = self.done - self.first, time.monotonic() - self.since
        if steps < _FEWEST_STEPS:
            return None
        return seconds / steps * (self.total - self.done)


class View(Protocol):
    """Shows the course of a run to a person."""

    def changed(self, run: RunProgress, part: Part | None) -> None:
        """Show the new state or activity of a part, or of the run itself."""

    def tick(self, run: RunProgress) -> None:
        """Show that time passes; called twice a second in another thread."""

    def note(self, message: str) -> None:
        """Show a line."""

    def close(self) -> None:
        """Leave everything as it was."""


class RunProgress:
    """The course of a run: what `stages.ports.protocols.Progress` receives, and the parts that it belongs to.

    Args:
        views: show the run; none if nobody watches.
    """

    def __init__(self, views: Sequence[View] = ()) -> None:
        self.views = views
        self.title = ""
        self.activity = ""
        """Activity of the run outside its parts."""
        self.began = self.since = time.monotonic()
        self.parts: dict[str, Part] = {}
        self.current: Part | None = None
        self.task: str | None = None
        self._noted: dict[str, str] = {}
        """Of several tasks or seeds, the first of which each note was told."""
        self._mark = 0.0
        self._end = threading.Event()
        if views:
            threading.Thread(target=self._tick, name="progress", daemon=True).start()

    def expect(self, parts: Mapping[str, float | None]) -> None:
        """Show the parts of the run, in order; each has the operations of its training."""
        self.parts, self.activity = {name: Part(name, work) for name, work in parts.items()}, ""
        self._changed(None)

    @contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """Show a part as running during the block, then as done, or as reused if the block gave it a `detail`."""
        # A new one also where an earlier attempt of the part failed.
        before = self.parts.get(name)
        part = self.parts[name] = Part(name, before.work if before else None, "running", "starting")
        part.began = part.since = time.monotonic()
        self.current = part
        self._changed(part)
        try:
            yield part
        except BaseException as error:
            # Prefect's own signals, like a key press, are no failure.
            is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
            part.state = "failed" if is_failure else "stopped"
            raise
        else:
            part.state, part.rest = "reused" if part.detail else "done", 0.0
        finally:
            part.seconds = time.monotonic() - part.began
            self.current, self.activity = None, ""
            self._changed(part)

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Show that steps, or other units of work, are counted from now on."""
        part = self._running()
        # `general`, or `general, teacher` for its teacher's answers, or `augmentation`.
        stage = part.name.partition(" (")[0].rpartition("/")[2]
        trains, asked = description == stage, description.removeprefix(f"{stage}, ")
        part.activity = TRAINING if trains else f"asking the {asked}" if asked != description else description
        part.first, part.done, part.total = done, done, total
        part.since = self._mark = time.monotonic()
        if trains:
            part.rest = 1.0 - done / max(total, 1)
        self._changed(part)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show that `done` units are finished."""
        part, now = self._running(), time.monotonic()
        part.done = done
        if part.activity == "scoring":
            part.activity, part.since = TRAINING, now
        elif part.activity == TRAINING:
            part.trained += now - self._mark
        self._mark = now
        if part.activity == TRAINING:
            total = max(part.total, 1)
            part.share, part.rest = (done - part.first) / total, 1.0 - done / total
            part.loss, part.speed = metrics.get("train/loss"), metrics.get("train/tokens_per_second")

    def phase(self, activity: str) -> None:
        """Show what is done other than counted steps, such as `judging`."""
        part, now = self.current, time.monotonic()
        if activity == (part or self).activity:
            return
        if part is None:
            self.activity, self.since = activity, now
        else:
            if part.activity == TRAINING and part.done < part.total:
                part.trained += now - self._mark
                self._mark = now
            if activity != "scoring":  # between two steps, which stay counted
                part.rest = 0.0 if part.activity == TRAINING else part.rest
                part.done = part.total = part.first = 0
            part.activity, part.since = activity, now
        self._changed(part)

    @contextmanager
    def of_task(self, task: str) -> Iterator[None]:
        """Have every note of the block name one of several tasks."""
        self.task = task
        try:
            yield
        finally:
            self.task = None

    def note(self, message: str) -> None:
        """Show a line, which names the task where there are several; what was said of an earlier one is not repeated.

        Seeds share a teacher, whose weaknesses are told once.
        """
        if self.task is None:
            self.tell(message)
        elif self._noted.setdefault(message, self.task) == self.task:
            self.tell(f"{self.task}: {message}")

    def tell(self, message: str) -> None:
        """Show a line as it is."""
        for view in self.views:
            view.note(message)

    @property
    def is_over(self) -> bool:
        """True once the run has ended."""
        return self._end.is_set()

    def close(self) -> None:
        """End all views."""
        self._end.set()
        for view in self.views:
            view.close()

    def left(self) -> float | None:
        """Seconds until the run ends, from the plan's operations and the rate so far; None while that is unknown."""
        parts, current = list(self.parts.values()), self.current
        work = sum((part.work or 0.0) * part.share for part in parts)
        seconds = sum(part.trained for part in parts if part.share and part.work)
        waiting = [part for part in parts if part.state == "waiting"]
        if not parts or any(part.work is None for part in waiting):
            return None
        ahead = sum(part.work or 0.0 for part in waiting)
        now = 0.0
        if current is not None and current.rest > 0:
            left = current.left() if current.activity == TRAINING else None
            if left is not None:
                now = left
            elif current.work is not None:
                ahead += current.work * current.rest
            else:
                return None
        if ahead and not work:
            return None
        ended = [part.seconds - part.trained for part in parts if part.state == "done"]
        aside = sum(ended) / len(ended) * len(waiting) if ended else 0.0
        return now + (ahead * seconds / work if ahead else 0.0) + aside

    def _running(self) -> Part:
        assert self.current is not None, "steps are counted in a part of the run"
        return self.current

    def _changed(self, part: Part | None) -> None:
        for view in self.views:
            view.changed(self, part)

    def _tick(self) -> None:
        while not self._end.wait(_TICK_SECONDS):
            for view in self.views:
                with suppress(Exception):  # a closed pipe, a server that went away
                    view.tick(self)
