"""The options of `distill init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.process.options import StoreOption

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Labelled rows: .csv, .tsv, .jsonl, .json, .parquet or .conll (also .gz), or a folder with train and "
        "validation files.",
    ),
]
Label = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of the label, or several of 0 and 1: toxic,rude.")
]
Validation = Annotated[
    str | None,
    typer.Option(metavar="FILE|SHARE", help="Validation rows; '10 %' of the rows, drawn by class, if left out."),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="MODEL",
        help="A folder, package:NAME or a hub id: a pretrained encoder, or a classifier of these labels.",
    ),
]
FineTune = Annotated[
    bool | None,
    typer.Option(
        "--fine-tune/--no-fine-tune",
        help="Fine-tune the teacher first, or never; if left out, unless it answers with these labels already.",
        show_default=False,
    ),
]


Text = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the text.")]
TextPair = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of a second text; '' for none.")]
EncodingOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Encoding of the files, such as cp1252; UTF-8 if left out.")
]
Speedup = Annotated[
    float | None, typer.Option(metavar="N", help="The student is at least N times as fast as the teacher; 2.")
]
Size = Annotated[str | None, typer.Option(metavar="N", help="Instead of --speedup: most parameters, such as 20M.")]
Corpus = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Text without labels for the general stages: a file, a folder, docstrings."),
]
Minutes = Annotated[
    float | None, typer.Option(metavar="N", help="Time for all trainings; the usual epochs if left out.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="The recipe; DATA's name if left out.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is found.")]


def init(
    data: Data = None,
    text: Text = None,
    text_pair: TextPair = None,
    label: Label = None,
    validation: Validation = None,
    encoding: EncodingOption = None,
    teacher: TeacherOption = None,
    fine_tune: FineTune = None,
    speedup: Speedup = None,
    size: Size = None,
    corpus: Corpus = None,
    minutes: Minutes = None,
    output: Output = None,
    yes: Yes = False,
    store: StoreOption = None,
) -> None:
    """Write a recipe for your data; asks what it cannot find out.

    [bold]Examples[/bold]
      distill init
      distill init reviews.csv --teacher ./my-teacher --minutes 10
      distill init ./task --text review --label stars --speedup 4 -o films.yaml --yes
    """
    from pipeline.init.command import Wanted, write_recipe
    from pipeline.init.questions import Questions
    from pipeline.process.console import err, out

    columns = {"text": text, "text_pair": text_pair, "label": label, "encoding": encoding}
    student = {"teacher": teacher, "fine_tune": fine_tune, "speedup": speedup, "size": size}
    rest = {"data": data, "validation": validation, "corpus": corpus, "minutes": minutes, "output": output}
    are_asked = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    options: dict[str, Any] = {**columns, **student, **rest}
    write_recipe(Wanted(**options), Questions(err, are_asked=are_asked), out, store)
