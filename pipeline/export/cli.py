"""The options of `distill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.store.arguments import complete_student

Student = Annotated[
    str,
    typer.Argument(
        metavar="STUDENT",
        help="A run, whose last student is meant, or a checkpoint folder.",
        autocompletion=complete_student,
    ),
]
Int8 = Annotated[str | None, typer.Option("--int8", metavar="dynamic|static", help="Write one in 8-bit integers too.")]
Prune = Annotated[
    str | None,
    typer.Option(
        metavar="task|FILE",
        help="Keep the word pieces of the task's training texts, and of a text file, and say what that costs.",
    ),
]


def export(
    name: Student,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that does not exist yet.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file in float32.")] = False,
    int8: Int8 = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Write one in 16-bit numbers too: half the size.")] = False,
    prune_vocabulary: Prune = None,
    triton: Annotated[bool, typer.Option("--triton", help="Add the layout of Triton and KServe.")] = False,
    opset: Annotated[int, typer.Option(min=18, metavar="N", help="Version of ONNX's operators.")] = 18,
    most_loss: Annotated[
        float, typer.Option(min=0, metavar="POINTS", help="Points of the main score that 8-bit integers may cost.")
    ] = 1.0,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="TASK", help="Rows to check the files on; the training's if left out."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a student as files to deploy: torch, ONNX, 8-bit integers.

    [bold]Examples[/bold]
      distill export films-20261127-101010 --to ./exported
      distill export films-20261127-101010 --to ./exported --onnx --int8 dynamic
    """
    from pipeline.export.export import Wanted, mode_of, print_export
    from pipeline.export.export import export as export_student

    wanted = Wanted(onnx, mode_of(int8), fp16, prune_vocabulary, triton, opset, most_loss)
    exported = export_student(name, to, wanted, task, store)
    if as_json:
        print_json(exported)
    else:
        print_export(exported, to, out)
