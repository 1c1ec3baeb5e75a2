"""Runs the campaigns and prints what they found: `python -m tests.torture --kills 200`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main(
    kills: Annotated[int, typer.Option(help="SIGKILLs over runs of all stages.")] = 200,
    flips: Annotated[int, typer.Option(help="Damaged files of checkpoints and states.")] = 300,
    recipes: Annotated[int, typer.Option(help="Damaged recipes.")] = 2000,
    files: Annotated[int, typer.Option(help="Damaged data files.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
) -> None:
    """Run the campaigns; exit code 1 if anything was lost."""
    from pipeline.launch import prepare_environment

    prepare_environment()
    losses: list[str] = []
    with tempfile.TemporaryDirectory(prefix="distill torture ") as scratch:
        folder = Path(scratch)
        if kills:
            losses += _kills(folder, kills, seed)
        if flips:
            from tests.torture.flips import flip_campaign

            found = flip_campaign(folder / "flips", cases=flips, seed=seed)
            console.print(
                f"{sum(found.cases.values())} files harmed, {len(found.losses)} not found in time"
            )
            for what, number in sorted(found.cases.items()):
                console.print(f"  {number:5d}  {what}")
            losses += found.losses
        losses += _inputs(folder, recipes, files, seed)
    for loss in losses:
        console.print(f"LOST: {loss}", soft_wrap=True)
    console.print(f"{len(losses)} losses")
    raise typer.Exit(bool(losses))


def _kills(folder: Path, kills: int, seed: int) -> list[str]:
    began = time.monotonic()
    with _prefect_server(folder / "prefect"):
        from tests.torture.kills import kill_campaign

        place = folder / "kills"
        place.mkdir()
        found = kill_campaign(place, kills=kills, seed=seed, note=console.print)
    console.print(
        f"{found.kills} kills in {found.runs} runs ({time.monotonic() - began:.0f} s): {found.in_stage} left a stage "
        f"unfinished, {found.resumed} continuations went on inside a stage, {len(found.losses)} losses"
    )
    return found.losses


def _inputs(folder: Path, recipes: int, files: int, seed: int) -> list[str]:
    from tests.torture.inputs import file_campaign, recipe_campaign

    losses: list[str] = []
    for name, campaign, cases in (
        ("recipes", recipe_campaign, recipes),
        ("data files", file_campaign, files),
    ):
        if not cases:
            continue
        place = folder / name
        place.mkdir()
        found = campaign(place, cases=cases, seed=seed)
        console.print(
            f"{cases} damaged {name}: {found.loaded} loaded, {found.refused} refused, slowest {found.slowest:.1f} s, "
            f"at most {found.grown / 2**20:.0f} MiB more, {len(found.losses)} losses"
        )
        losses += found.losses
    return losses


@contextmanager
def _prefect_server(home: Path) -> Iterator[None]:
    """A Prefect server for all runs, so that each need not start its own; ended by its id."""
    from tests.end_to_end.processes import free_port, running

    port = free_port()
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with running(*command, "--port", str(port), "--no-services") as server:
        server.wait_for("Check out the dashboard")
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        yield


if __name__ == "__main__":
    typer.run(main)
