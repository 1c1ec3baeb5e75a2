"""The live display of a run on a terminal: a row per part, redrawn in place twice a second."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.process.terminal import is_unicode, safe, shown
from pipeline.progress.parts import TRAINING, Part, RunProgress
from pipeline.progress.wording import clock, left_of_part, left_of_run, numbers_of, part_title, steps_of
from pipeline.reporting.run_table import duration

_WIDEST = 90
"""Columns used at most: a line that fits into a smaller window is not torn when the window shrinks."""
_NARROW = 60
_BAR = 20
_KEPT_NOTES = 40
_STYLES = {"waiting": "dim", "running": "bold", "done": "green", "reused": "cyan", "stopped": "yellow", "failed": "red"}


def is_live(console: Console) -> bool:
    """Return whether a display can be redrawn there: on a terminal that moves its cursor, outside automation."""
    is_automated = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return console.is_interactive and not console.is_dumb_terminal and console.file.isatty() and not is_automated


class Display:
    """The live display.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.run: RunProgress | None = None
        self.notes: deque[Text] = deque(maxlen=_KEPT_NOTES)
        self.live = Live(console=console, auto_refresh=False, get_renderable=self._rendered)
        self._lock = threading.RLock()
        self._width = console.width

    def changed(self, run: RunProgress, part: Part | None) -> None:
        """Draw the run as it is now."""
        with self._lock:
            self.run = run
            if not self.live.is_started:
                self.live.start()
            self.live.refresh()

    def tick(self, run: RunProgress) -> None:
        """Draw the run as it is now, on an empty screen if the window has become narrower."""
        with self._lock:
            if not self.live.is_started:
                return
            width, before = self.console.width, self._width
            self._width = width
            if width < min(before, _WIDEST):  # the terminal has broken the lines that were drawn
                self.console.clear()
                for note in self.notes:
                    self.console.print(note, highlight=False)
            self.live.refresh()

    def note(self, message: str) -> None:
        """Print a line above the display."""
        with self._lock:
            self.notes.append(shown(message))
            self.console.print(self.notes[-1], highlight=False)

    def close(self) -> None:
        """Leave the last state of every part on the terminal."""
        with self._lock:
            if self.live.is_started:
                self.live.stop()

    def _rendered(self) -> RenderableType:
        if self.run is None:
            return ""
        columns = min(self.console.width - 1, _WIDEST)
        lines = self._lines(self.run, columns)
        for line in lines:
            line.truncate(columns, overflow="ellipsis" if is_unicode(self.console.encoding) else "crop")
        return Group(*lines)

    def _lines(self, run: RunProgress, columns: int) -> list[Text]:
        parts = list(run.parts.values())
        head = _head(run, columns)
        if run.current is None and run.activity:
            head.append(Text(f"{run.activity}  {clock(time.monotonic() - run.since)}", "bold"))
        titles = [safe(part_title(part)) for part in parts]
        widest = min(max(map(len, titles), default=0), max(columns // 3, 12))
        rows = [
            self._row(part, title[: widest - 1] + "…" if len(title) > widest else title.ljust(widest), columns)
            for part, title in zip(parts, titles, strict=True)
        ]
        return head + _fitted(parts, rows, self.console.height - len(head) - 2)

    def _row(self, part: Part, title: str, columns: int) -> list[Text]:
        style = _STYLES[part.state]
        state = part.activity if part.state == "running" else part.state
        first = Text.assemble((title, "" if part.state != "running" else "bold"), "  ", (state.ljust(9), style))
        if part.state != "running":
            return [first.append(f"  {_ended(part)}", "dim" if part.state == "waiting" else "")]
        if not part.total:
            return [first.append(f"  {clock(time.monotonic() - part.since)}")]
        indent = " " * (len(title) + 2 if columns >= _NARROW else 2)
        count = self._bar(part, _BAR if columns >= _NARROW else columns // 3).append(f" {steps_of(part)}")
        rows = [first]
        if part.activity == TRAINING and columns >= _NARROW:
            first.append("  ").append_text(count)
        else:
            rows.append(Text(indent).append_text(count))
        words = [", ".join(numbers_of(part)), left_of_part(part)]
        if columns >= _NARROW:
            words = [", ".join(filter(None, words))]
        return rows + [Text(indent + line) for line in words if line]

    def _bar(self, part: Part, cells: int) -> Text:
        full, empty = "━─" if is_unicode(self.console.encoding) else "#-"
        done = round(cells * part.done / max(part.total, 1))
        return Text.assemble((full * done, "green"), (empty * (cells - done), "dim"))


def _head(run: RunProgress, columns: int) -> list[Text]:
    times = f"{clock(time.monotonic() - run.began)} so far"
    if not run.is_over and run.parts:
        times += f", {left_of_run(run)}"
    title = Text(safe(run.title), "bold")
    room = columns - len(title) - len(times)
    return [title, Text(times)] if room < 2 else [title.append(" " * room + times, "not bold")]


def _ended(part: Part) -> str:
    seconds = [duration(part.seconds)] if part.state in ("done", "stopped", "failed") else []
    return ", ".join([*([part.result] if part.result else []), *seconds])


def _fitted(parts: list[Part], rows: list[list[Text]], height: int) -> list[Text]:
    """The rows, those that are farthest from the running one counted instead of shown where there is no room."""
    first, last = 0, len(rows)
    running = next((i for i, part in enumerate(parts) if part.state in ("running", "waiting")), len(rows) - 1)
    while last - first > 1 and sum(map(len, rows[first:last])) + 2 > height and sum(map(len, rows)) > height:
        if running - first >= last - 1 - running:
            first += 1
        else:
            last -= 1
    before = [Text(f"{first} before", "dim")] if first else []
    after = [Text(f"{len(rows) - last} more", "dim")] if last < len(rows) else []
    return before + [line for row in rows[first:last] for line in row] + after
