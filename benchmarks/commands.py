"""Processor time of commands as a person starts them, with the marks that they are held to.

    python -m benchmarks.commands --json commands.json
    python -m benchmarks.commands --recipe quickstart --store ./distill-store

The store must have a finished run of the recipe, so that `plan` finds its data prepared and `run` finds every stage.
User and system time of the process and all its children, the least of the rounds: other work only adds to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.output import console, table_of, write_json
from pipeline.store.checkpoints import look_into_store
from schemas.core.errors import ConfigError
from schemas.results.manifest import RunReport


def main(
    recipe: Annotated[str, typer.Option(help="A recipe that the store has a finished run of.")] = "quickstart",
    store: Annotated[Path, typer.Option(help="The store.")] = Path("distill-store"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the quick commands; slow ones have one less.")] = 3,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure every command and print its processor time beside its mark."""
    table = table_of("command", "processor s", "mark s", "")
    results = []
    for name, (mark, arguments, code) in commands(recipe, store).items():
        seconds = min(processor_seconds(arguments, code) for _ in range(rounds if mark < 5 else max(1, rounds - 1)))
        verdict = "kept" if seconds <= mark else "missed"
        table.add_row(name, f"{seconds:.2f}", f"{mark:g}", verdict)
        results.append({"command": name, "seconds": seconds, "mark": mark})
    console().print(table)
    write_json(json_path, results)


def commands(recipe: str, store: Path) -> dict[str, tuple[float, list[str], int]]:
    """Mark in seconds, arguments and expected exit code of each command.

    Raises:
        ConfigError: the store has no finished run of the recipe.
    """
    opened = look_into_store(store)
    reports = [opened.read_report(name) for name in opened.list_reports()]
    report = next((found for found in reports if isinstance(found, RunReport) and found.recipe == recipe), None)
    if report is None:
        raise ConfigError(f"{store} has no finished run of {recipe}; make one: distill run {recipe} --store {store}")
    checkpoint = next(row.checkpoint.path for row in reversed(report.rows) if row.kind == "stage" and row.checkpoint)
    here = ["--store", str(store)]
    return {
        "distill --help": (0.5, ["--help"], 0),
        "distill recipes": (2.0, ["recipes"], 0),
        "distill runs": (2.0, ["runs", *here], 0),
        "distill compare": (2.0, ["compare", *here], 0),
        "distill compare A B": (2.0, ["compare", report.run, report.run, *here], 0),
        "distill verify CHECKPOINT": (2.0, ["verify", checkpoint], 0),
        "distill gc": (2.0, ["gc", *here], 0),
        "distill run, a wrong recipe": (2.0, ["run", recipe, "--set", "student.layers=3", *here], 2),
        f"distill plan {recipe}": (8.0, ["plan", recipe, *here], 0),
        f"distill run {recipe}, all in the store": (10.0, ["run", recipe, *here], 0),
    }


def processor_seconds(arguments: list[str], code: int) -> float:
    """User and system time of one command and all its children.

    Raises:
        RuntimeError: it ended with another exit code.
    """
    before = os.times()
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "pipeline", *arguments]
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=errors, check=False)
        errors.seek(0)
        if ended.returncode != code:
            raise RuntimeError(f"distill {' '.join(arguments)} ended with {ended.returncode}: {errors.read()}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    typer.run(main)
