"""The views of a run: a display on a terminal, lines elsewhere, and Prefect's page."""

from __future__ import annotations

from rich.console import Console

from pipeline.process.terminal import say
from pipeline.progress.display import Display, is_live
from pipeline.progress.lines import Lines
from pipeline.progress.parts import RunProgress, View
from pipeline.progress.prefect_page import PrefectPage, prints_lines


def make_progress(console: Console, page: PrefectPage | None) -> RunProgress:
    """Progress that is shown on the console, by Prefect's own lines where it prints them, and on its page."""
    views: list[View] = [] if page is None else [page]
    if page is None or not prints_lines():
        views.append(Display(console) if is_live(console) else Lines(lambda line: say(console, line)))
    return RunProgress(views)
