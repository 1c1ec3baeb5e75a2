"""The options of `distill register`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.store.arguments import complete_student

Student = Annotated[
    str,
    typer.Argument(
        metavar="STUDENT",
        help="A run, whose last student is meant, a checkpoint folder, or an export's.",
        autocompletion=complete_student,
    ),
]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the registered model; the task's if left out.")]
Rows = Annotated[
    str | None, typer.Option(metavar="TASK", help="Task whose rows decide the champion; the training's if left out.")
]
Float = Annotated[bool, typer.Option("--fp32", help="Export in float32 rather than 8-bit integers.")]


def register(
    student: Student,
    name: Name = None,
    task: Rows = None,
    fp32: Float = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a student in MLflow, which serves it without torch."""
    from pipeline.registry import command

    registration = command.register(student, model_name=name, task=task, is_fp32=fp32, store=store)
    if as_json:
        print_json(registration)
    else:
        command.print_registration(registration, out)
