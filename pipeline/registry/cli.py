"""The options of `distill register`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.process.options import JsonOption, StoreOption
from pipeline.process.terminal import is_unicode

Student = Annotated[
    str, typer.Argument(metavar="CHECKPOINT|RUN|EXPORT", help="A checkpoint, a run's last student, or an export.")
]
Name = Annotated[str | None, typer.Option(help="Name of the registered model; the task's if left out.")]
Rows = Annotated[str | None, typer.Option(help="Task whose rows decide the champion; the training's if left out.")]
Float = Annotated[bool, typer.Option("--fp32", help="Export in float32 rather than 8-bit integers.")]


def register(
    student: Student,
    name: Name = None,
    task: Rows = None,
    fp32: Float = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a student in MLflow, to be served without torch; it becomes the champion if it is better."""
    from pipeline.registry import command

    registration = command.register(student, model_name=name, task=task, is_fp32=fp32, store=store)
    if as_json:
        fields = registration.model_dump(mode="json")
        sys.stdout.write(json.dumps(fields, indent=2, ensure_ascii=not is_unicode(sys.stdout.encoding)) + "\n")
    else:
        command.print_registration(registration, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
