"""Progress of a run for a person: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich import progress as rich_progress
from rich.console import Console

from pipeline.process.terminal import safe, say, shown
from stages.ports.protocols import Progress

_SECONDS_BETWEEN_LINES = 15.0


def _numbers(metrics: Mapping[str, float]) -> str:
    parts = []
    if (loss := metrics.get("train/loss")) is not None:
        parts.append(f"loss {loss:.4g}")
    if (rate := metrics.get("train/tokens_per_second")) is not None:
        parts.append(f"{rate:,.0f} tokens/s")
    return "  ".join(parts)


class TerminalProgress:
    """One bar per stage."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description:<20}", style="bold", markup=False),
            rich_progress.BarColumn(bar_width=30),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[numbers]}", style="dim"),
            console=console,
        )
        self.task: rich_progress.TaskID | None = None

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Add the bar of a stage."""
        self.bars.start()
        self.task = self.bars.add_task(safe(description), total=total, completed=done, numbers="")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Set the bar to `done` steps."""
        assert self.task is not None
        self.bars.update(self.task, completed=done, numbers=_numbers(metrics))

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self.console.print(shown(message), highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars.live.is_started:
            self.bars.stop()


class LineProgress:
    """A plain line every 15 seconds, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.description = ""
        self.total = 0
        self.next_line = 0.0

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Print the first line of a stage."""
        self.description, self.total = description, total
        self.next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        self.note(f"{description}: step {done} of {total}")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Print a line if it is time for one, or at the last step."""
        if done == self.total or time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            self.note(f"{self.description}: step {done} of {self.total}  {_numbers(metrics)}".rstrip())

    def note(self, message: str) -> None:
        """Print one line."""
        say(self.console, message)

    def close(self) -> None:
        """Do nothing: lines leave nothing behind."""


class TaskProgress:
    """Progress of one of several tasks, which every line names."""

    def __init__(self, progress: Progress, task: str) -> None:
        self.progress, self.task = progress, task

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Show that a stage of the task begins."""
        self.progress.start(f"{self.task}/{description}", total, done)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show that `done` steps are finished."""
        self.progress.advance(done, metrics)

    def note(self, message: str) -> None:
        """Print one line."""
        self.progress.note(f"{self.task}: {message}")


def make_progress(console: Console) -> TerminalProgress | LineProgress:
    """Bars on a terminal, lines elsewhere."""
    return TerminalProgress(console) if console.is_terminal else LineProgress(console)
