"""Overhead of a run beside training: Prefect, MLflow, checkpoints and evaluation, per stage and per flow.

    python -m benchmarks.overhead benchmarks/sst2.yaml --until general --set "stages.0.training.duration=1M tokens"

The recipe is run twice in one store, as the command that a user would type. The second run finds every stage and trains
nothing, so its wall time is the overhead of the flow. The difference to the first run, minus the time inside the
training loops, is the overhead of the stages. Stages that were in the store before are not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.output import console


def timed(command: list[str]) -> float:
    """Return the wall seconds of a command.

    Raises:
        typer.Exit: the command failed; its output is shown.
    """
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise typer.Exit(done.returncode)
    return time.perf_counter() - began


def trained_seconds(store: Path) -> dict[str, float]:
    """Return the seconds inside the training loop of every checkpoint in the store, by folder."""
    manifests = sorted(store.glob("checkpoints/*/manifest.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in manifests}


def main(
    recipe: Annotated[str, typer.Argument(help="A recipe.")],
    until: Annotated[str, typer.Option(help="The last stage to run.")],
    change: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe.")] = None,
    store: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("distill-store"),
) -> None:
    """Measure what a run costs beside training."""
    command = [sys.executable, "-m", "pipeline", "run", recipe, "--until", until]
    command += ["--store", str(store)]
    for each in change or []:
        command += ["--set", each]
    before = trained_seconds(store)
    first = timed(command)
    trained = {name: seconds for name, seconds in trained_seconds(store).items() if name not in before}
    flow = timed(command)
    loop, number = sum(trained.values()), len(trained)
    out = console()
    out.print(f"a flow that finds every stage: {flow:.1f} s")
    if not number:
        out.print("no stage was trained, because the store has them all; change a duration")
        raise typer.Exit(1)
    each = (first - flow - loop) / number
    out.print(f"{number} stages trained, {loop:.1f} s in their loops, {first:.1f} s in all")
    out.print(
        f"beside its loop a stage takes {each:.1f} s: {100 * each / (600 + each):.1f} % of one that trains ten minutes"
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    typer.run(main)
