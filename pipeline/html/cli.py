"""The options of `distill report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.process.console import err, out
from pipeline.process.options import StoreOption
from pipeline.process.terminal import say
from pipeline.store.arguments import RunArgument


def report(
    run: RunArgument = None,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")] = Path("report.html"),
    quick: Annotated[bool, typer.Option("--quick", help="Export and measure nothing that the run did not.")] = False,
    store: StoreOption = None,
) -> None:
    """Write a run's results as one HTML page to pass on."""
    from pipeline.html.command import write_report

    written = write_report(run, to, lambda line: say(err, line), store, measured=not quick)
    say(out, f"{to}: the report of {written.run}")
