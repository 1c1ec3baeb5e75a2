"""Runs the campaigns and prints their results: `python -m tests.torture --kills 200`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)
SERVED = ("kill_campaign", "soak_campaign")
"""Campaigns whose runs share a Prefect server; the others need none, or start it themselves."""
TALKATIVE = (*SERVED, "press_campaign")
"""Campaigns that report their progress."""


def main(
    kills: Annotated[int, typer.Option(help="SIGKILLs over runs of all stages.")] = 200,
    presses: Annotated[int, typer.Option(help="Key presses and signals in terminals.")] = 60,
    cuts: Annotated[int, typer.Option(help="Power cuts.")] = 200,
    flips: Annotated[int, typer.Option(help="Damaged files of checkpoints and states.")] = 1000,
    recipes: Annotated[int, typer.Option(help="Damaged recipes.")] = 2000,
    overrides: Annotated[int, typer.Option(help="Malformed --set changes.")] = 1000,
    files: Annotated[int, typer.Option(help="Damaged data files.")] = 1000,
    bombs: Annotated[int, typer.Option(help="Parquet files that decompress to gigabytes.")] = 300,
    specials: Annotated[int, typer.Option(help="FIFOs, sockets and devices.")] = 300,
    runs: Annotated[int, typer.Option(help="Runs in one store, four at a time.")] = 500,
    collections: Annotated[int, typer.Option(help="Runs with `distill gc` at the same time.")] = 400,
    changes: Annotated[int, typer.Option(help="Stages whose data or model changes.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
) -> None:
    """Run the campaigns; exit code 1 if anything was lost."""
    from pipeline.process.prefect_api import prepare_environment

    prepare_environment()
    logging.basicConfig(level=logging.CRITICAL)  # damage is logged every time, and expected here
    campaigns = [
        ("kills", "kill_campaign", kills),
        ("terminals", "press_campaign", presses),
        ("power", "power_campaign", cuts),
        ("flips", "flip_campaign", flips),
        ("inputs", "recipe_campaign", recipes),
        ("inputs", "override_campaign", overrides),
        ("inputs", "file_campaign", files),
        ("hostile", "bomb_campaign", bombs),
        ("hostile", "special_campaign", specials),
        ("soak", "soak_campaign", runs),
        ("collecting", "collect_campaign", collections),
        ("changes", "change_campaign", changes),
    ]
    losses: list[str] = []
    for module, name, cases in campaigns:
        if cases:
            began = time.monotonic()
            losses += _run(module, name, cases, seed)
            console.print(f"  ({time.monotonic() - began:.0f} s)")
    for loss in losses:
        console.print(f"LOST: {loss}", markup=False)
    console.print(f"{len(losses)} losses")
    raise typer.Exit(bool(losses))


def _run(module: str, name: str, cases: int, seed: int) -> list[str]:
    """Run one campaign in an empty folder, print its result, and return the losses."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distill torture ")))
        if name in SERVED:
            stack.enter_context(_prefect_server(folder / "prefect"))
        campaign = getattr(importlib.import_module(f"tests.torture.{module}"), name)
        (folder / module).mkdir()
        note = {"note": console.print} if name in TALKATIVE else {}
        result = campaign(folder / module, cases=cases, seed=seed, **note)
    console.print(f"{name}: {result}, {len(result.losses)} losses", markup=False)
    losses: list[str] = result.losses
    return losses


@contextmanager
def _prefect_server(home: Path) -> Iterator[None]:
    """Start a Prefect server for all runs, so that none has to start its own; stop it by its id."""
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
