"""Plain lines for logs and pipes: every change of state at once, progress once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.progress.parts import TRAINING, Part, RunProgress
from pipeline.progress.wording import ended_line, part_title, progress_line, steps_of

_SECONDS_BETWEEN_LINES = 60.0
_BRIEF = ("scoring", "reading data", "loading models", "saving")
"""Activities that a line names only if they last."""


class Lines:
    """The course of a run in lines.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said = time.monotonic()

    def changed(self, run: RunProgress, part: Part | None) -> None:
        """Say what a part, or the run, does now, or how a part ended."""
        if part is None:
            if run.activity:
                self._line(f"{run.title}: {run.activity}")
        elif part.state == "running":
            if part.activity == TRAINING:
                self._line(f"{part_title(part)}: {steps_of(part)}")
            elif part.activity not in _BRIEF:
                self._line(f"{part_title(part)}: {part.activity}")
        elif line := ended_line(part):
            self._line(line)

    def tick(self, run: RunProgress) -> None:
        """Say how far the run is, if nothing was said for a minute."""
        part = run.current
        if time.monotonic() - self.said < _SECONDS_BETWEEN_LINES:
            return
        if part is not None:
            self._line(progress_line(run, part))
        elif run.activity:
            self._line(f"{run.title}: still {run.activity}")

    def note(self, message: str) -> None:
        """Print a line."""
        self.say(message)

    def close(self) -> None:
        """Do nothing: lines leave nothing behind."""

    def _line(self, line: str) -> None:
        self.said = time.monotonic()
        self.say(line)
