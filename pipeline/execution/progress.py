"""Shows a person how far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.process.terminal import safe, say, shown

_SECONDS_BETWEEN_LINES = 15.0


def _numbers(metrics: Mapping[str, float]) -> str:
    shown = []
    if (loss := metrics.get("train/loss")) is not None:
        shown.append(f"loss {loss:.4g}")
    if (rate := metrics.get("train/tokens_per_second")) is not None:
        shown.append(f"{rate:,.0f} tokens/s")
    return "  ".join(shown)


class TerminalProgress:
    """One bar per stage."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:<20}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", style="dim"),
            console=console,
        )
        self.task: TaskID | None = None

    def start(self, description: str, total: int, done: int = 0) -> None:
        """A stage begins."""
        if not self.bars.live.is_started:
            self.bars.start()
        self.task = self.bars.add_task(safe(description), total=total, completed=done, numbers="")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` steps are behind us."""
        assert self.task is not None
        self.bars.update(self.task, completed=done, numbers=_numbers(metrics))

    def note(self, message: str) -> None:
        """One line above the bars."""
        self.console.print(shown(message), highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars.live.is_started:
            self.bars.stop()


class LineProgress:
    """A plain line now and then, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.description = ""
        self.total = 0
        self.next_line = 0.0

    def start(self, description: str, total: int, done: int = 0) -> None:
        """A stage begins."""
        self.description, self.total = description, total
        self.next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        self.note(f"{description}: step {done} of {total}")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` steps are behind us."""
        if done == self.total or time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            self.note(f"{self.description}: step {done} of {self.total}  {_numbers(metrics)}".rstrip())

    def note(self, message: str) -> None:
        """One line."""
        say(self.console, message)

    def close(self) -> None:
        """Nothing to put back."""


class TaskProgress:
    """The same for one of several tasks, which every line names."""

    def __init__(self, shown: TerminalProgress | LineProgress, task: str) -> None:
        self.shown, self.task = shown, task

    def start(self, description: str, total: int, done: int = 0) -> None:
        """A stage of the task begins."""
        self.shown.start(f"{self.task}/{description}", total, done)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` steps are behind us."""
        self.shown.advance(done, metrics)

    def note(self, message: str) -> None:
        """One line."""
        self.shown.note(f"{self.task}: {message}")


def make_progress(console: Console) -> TerminalProgress | LineProgress:
    """Bars where somebody watches a terminal, lines elsewhere."""
    return TerminalProgress(console) if console.is_terminal else LineProgress(console)
