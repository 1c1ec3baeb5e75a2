"""Commands about what a store holds: `distill runs`, `compare`, `sync` and `gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.process.terminal import say
from pipeline.store.arguments import complete_run
from schemas.core.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from pipeline.store.checkpoints import CheckpointStore


def runs(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List runs, the newest first, with their scores."""
    from pipeline.process.settings import read_settings
    from pipeline.runs.listing import list_runs, print_runs
    from pipeline.store.checkpoints import look_into_store

    opened = look_into_store(read_settings(store).store)
    listed = list_runs(opened)
    if as_json:
        print_json([run.model_dump(mode="json") for run in listed])
    elif listed:
        print_runs(listed, out)
    else:
        say(out, f"no runs in {opened.root}; start one with: distill run RECIPE")


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="One run, to see its stages side by side; the newest if left out. Two, to see what changed from the "
            "first to the second.",
            autocompletion=complete_run,
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which stage helped, or what changed between two runs.

    [bold]Examples[/bold]
      distill compare
      distill compare films-20261127-101010
      distill compare films-20261127-101010 films-20261127-113000
    """
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_report
    from pipeline.store.checkpoints import look_into_store
    from pipeline.tracking.open_ui import mlflow_ui

    names = names or []
    if len(names) > 2:
        raise ConfigError(f"compare: {len(names)} runs; give one, or two of which the first is the one to start from")
    opened = look_into_store(read_settings(store).store)
    if len(names) == 2:
        _compare_two(opened, *names, as_json=as_json)
        return
    report = opened.read_report(*names)
    if as_json:
        print_json(report)
    else:
        print_report(report, out, mlflow=mlflow_ui(report.store))


def _compare_two(opened: CheckpointStore, first: str, second: str, *, as_json: bool) -> None:
    from pipeline.runs.comparison import compare_runs
    from pipeline.runs.comparison_table import print_comparison

    comparisons = compare_runs(opened.read_report(first), opened.read_report(second), opened)
    if as_json:
        print_json([comparison.model_dump(mode="json") for comparison in comparisons])
        return
    for comparison in comparisons:
        print_comparison(comparison, out)


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
        if opened.remote is not None:
            say(out, f"this is the local copy of {opened.remote.address}, which keeps everything")
