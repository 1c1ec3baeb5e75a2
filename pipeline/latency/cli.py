"""The options of `distill latency`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.store.arguments import complete_student


def latency(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Runs, checkpoints, exports, or models as in a recipe.",
            autocompletion=complete_student,
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The reference; the first checkpoint's teacher if left out.")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Texts in a call, such as 1,16.")] = "1",
    length: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Tokens of each text, such as 16,32,128; its own if left out."),
    ] = None,
    threads: Annotated[str, typer.Option(metavar="N,...", help="Threads, such as 1,2.")] = "1",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds in which all models take turns.")] = 5,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast models answer, in turn on the same texts."""
    from pipeline.latency.command import Shapes, measure_latency, numbers, print_latency

    lengths = (None,) if length is None else numbers(length, "--length")
    shapes = Shapes(numbers(batch, "--batch"), lengths, numbers(threads, "--threads"), rounds)
    report = measure_latency(names, against, shapes, store)
    if as_json:
        print_json(report)
    else:
        print_latency(report, out)
