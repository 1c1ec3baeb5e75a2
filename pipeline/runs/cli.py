"""Commands about what a store holds: `distill compare`, `sync` and `gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.store.arguments import RunArgument
from schemas.core.errors import ServiceError


def compare(run: RunArgument = None, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show the results of a run: its stages side by side, or its tasks."""
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_report
    from pipeline.store.checkpoints import look_into_store
    from pipeline.tracking.open_ui import mlflow_ui

    report = look_into_store(read_settings(store).store).read_report(run)
    if as_json:
        print_json(report)
    else:
        print_report(report, out, mlflow=mlflow_ui(report.store))


def sync(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Send MLflow what could not be sent while it was unreachable."""
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_sync
    from pipeline.store.checkpoints import look_into_store
    from pipeline.tracking.server import sync as send_kept

    settings = read_settings(store)
    report = send_kept(settings, look_into_store(settings.store).points)
    if as_json:
        print_json(report)
    else:
        print_sync(report, out)
    if report.failure:
        raise ServiceError(report.failure)


def gc(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what has not been written to for this long.")
    ] = "7 days",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; otherwise only list it.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List files that no run needs any more; remove them with --yes."""
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_garbage
    from pipeline.store.checkpoints import look_into_store
    from pipeline.store.garbage import find_garbage, remove_garbage, seconds_of

    age = seconds_of(older_than)
    opened = look_into_store(read_settings(store).store)
    garbage = find_garbage(opened, older_than=age)
    if yes:
        garbage = remove_garbage(opened, garbage)
    if as_json:
        print_json(garbage)
    else:
        print_garbage(garbage, out)
