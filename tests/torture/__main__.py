"""Runs the campaigns and prints what they found: `python -m tests.torture --kills 200`."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from tests.torture.inputs import Inputs

console = Console(highlight=False, soft_wrap=True)


def main(
    kills: Annotated[int, typer.Option(help="SIGKILLs over runs of all stages.")] = 200,
    presses: Annotated[int, typer.Option(help="Key presses and signals in terminals.")] = 60,
    cuts: Annotated[int, typer.Option(help="Power cuts.")] = 200,
    flips: Annotated[int, typer.Option(help="Damaged files of checkpoints and states.")] = 1000,
    recipes: Annotated[int, typer.Option(help="Damaged recipes.")] = 2000,
    overrides: Annotated[int, typer.Option(help="Odd --set changes.")] = 1000,
    files: Annotated[int, typer.Option(help="Damaged data files.")] = 1000,
    bombs: Annotated[int, typer.Option(help="Parquet files that mean gigabytes.")] = 300,
    specials: Annotated[int, typer.Option(help="FIFOs, sockets and devices.")] = 300,
    runs: Annotated[int, typer.Option(help="Runs in one store, four at a time.")] = 500,
    collections: Annotated[int, typer.Option(help="Runs with `distill gc` beside them.")] = 400,
    changes: Annotated[int, typer.Option(help="Stages whose data or model changes.")] = 300,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
) -> None:
    """Run the campaigns; exit code 1 if anything was lost."""
    from pipeline.launch import prepare_environment

    prepare_environment()
    # What is found damaged is said each time; here it is what is looked for.
    logging.basicConfig(level=logging.CRITICAL)
    campaigns: list[tuple[Callable[[Path, int, int], list[str]], int]] = [
        (_kills, kills),
        (_presses, presses),
        (_cuts, cuts),
        (_flips, flips),
        (_recipes, recipes),
        (_overrides, overrides),
        (_files, files),
        (_bombs, bombs),
        (_specials, specials),
        (_soak, runs),
        (_collections, collections),
        (_changes, changes),
    ]
    losses: list[str] = []
    for campaign, cases in campaigns:
        if cases:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="distill torture ") as folder:
                losses += campaign(Path(folder), cases, seed)
            console.print(f"  ({time.monotonic() - began:.0f} s)")
    for loss in losses:
        console.print(f"LOST: {loss}", markup=False)
    console.print(f"{len(losses)} losses")
    raise typer.Exit(bool(losses))


def _kills(folder: Path, cases: int, seed: int) -> list[str]:
    with _prefect_server(folder / "prefect"):
        from tests.torture.kills import kill_campaign

        place = folder / "kills"
        place.mkdir()
        found = kill_campaign(place, kills=cases, seed=seed, note=console.print)
    inside = ", ".join(f"{stage} {number}" for stage, number in sorted(found.inside.items()))
    console.print(
        f"{found.kills} kills in {found.runs} runs: {found.inside.total()} inside a stage ({inside}), {found.resumed} "
        f"continuations went on inside a stage, {len(found.losses)} losses"
    )
    return found.losses


def _presses(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.terminals import press_campaign

    found = press_campaign(folder, presses=cases, seed=seed, note=console.print)
    keys = ", ".join(f"{key} {number}" for key, number in sorted(found.keys.items()))
    console.print(
        f"{found.keys.total()} key presses and signals ({keys}) in {found.runs} runs: {found.saved} saved a state and "
        f"said so, the slowest ended after {found.slowest:.1f} s, {len(found.losses)} losses"
    )
    return found.losses


def _cuts(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.power import power_campaign

    found = power_campaign(folder, cuts=cases, seed=seed)
    console.print(
        f"{found.cuts} power cuts among {found.events} syncs and renames of a run: {found.finished} stages were left "
        f"finished, {found.resumed} went on from a state, {len(found.losses)} losses"
    )
    return found.losses


def _flips(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.flips import flip_campaign

    found = flip_campaign(folder, cases=cases, seed=seed)
    console.print(f"{found.cases.total()} files harmed, {len(found.losses)} not found in time")
    for what, number in sorted(found.cases.items()):
        console.print(f"  {number:5d}  {what}")
    return found.losses


def _recipes(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.inputs import recipe_campaign

    return _inputs("damaged recipes", recipe_campaign(folder, cases=cases, seed=seed))


def _overrides(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.inputs import override_campaign

    return _inputs("odd overrides", override_campaign(folder, cases=cases, seed=seed))


def _files(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.inputs import file_campaign

    return _inputs("damaged data files", file_campaign(folder, cases=cases, seed=seed))


def _bombs(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.hostile import bomb_campaign

    return _inputs("Parquet bombs", bomb_campaign(folder, cases=cases, seed=seed))


def _specials(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.hostile import special_campaign

    return _inputs("special files", special_campaign(folder, cases=cases, seed=seed))


def _inputs(what: str, found: Inputs) -> list[str]:
    console.print(
        f"{found.loaded + found.refused} {what}: {found.loaded} loaded, {found.refused} refused, slowest "
        f"{found.slowest:.1f} s, at most {found.grown / 2**20:.0f} MiB more, {len(found.losses)} losses"
    )
    return found.losses


def _soak(folder: Path, cases: int, seed: int) -> list[str]:
    with _prefect_server(folder / "prefect"):
        from tests.torture.soak import soak_campaign

        place = folder / "soak"
        place.mkdir()
        found = soak_campaign(place, runs=cases, seed=seed, note=console.print)
    console.print(found)
    return found.losses


def _collections(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.collecting import collect_campaign

    found = collect_campaign(folder, cases=cases, seed=seed)
    console.print(
        f"{found.runs} runs to their end and {found.killed} killed with gc beside them: {found.made} stages made, "
        f"{found.reused} reused, {found.removed} things taken away, {len(found.losses)} losses"
    )
    return found.losses


def _changes(folder: Path, cases: int, seed: int) -> list[str]:
    from tests.torture.changes import change_campaign

    found = change_campaign(folder, cases=cases, seed=seed)
    console.print(f"{found.cases.total()} stages disturbed by a file that changed, {len(found.losses)} losses")
    for what, number in sorted(found.cases.items()):
        console.print(f"  {number:5d}  {what}")
    return found.losses


@contextmanager
def _prefect_server(home: Path) -> Iterator[None]:
    """A Prefect server for all runs, so that each need not start its own; ended by its id."""
    from tests.support.processes import free_port, running

    port = free_port()
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with running(*command, "--port", str(port), "--no-services") as server:
        server.wait_for("Check out the dashboard")
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        yield
    del os.environ["PREFECT_API_URL"]


if __name__ == "__main__":
    typer.run(main)
