"""The options of `distill predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.process.options import StoreOption
from pipeline.store.arguments import complete_student

Student = Annotated[
    str,
    typer.Argument(
        metavar="STUDENT",
        help="A run, whose last student is meant, a checkpoint folder, or an export's.",
        autocompletion=complete_student,
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT",
        help="Texts to answer; - for standard input: a text a line, or JSON lines. Write -- before a text that begins "
        "with -.",
    ),
]
Pair = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Second text of each TEXT, or one for all: of a pair, or the context."),
]
Choice = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A choice; give it twice or more.")]
File = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Rows to answer: .csv, .tsv, .jsonl, .parquet, .txt or .conll; also .gz."),
]
TextColumns = Annotated[
    str | None,
    typer.Option(metavar="TEXT[,SECOND]", help="Columns of the texts; the task's, or the usual ones, if left out."),
]
Keep = Annotated[str | None, typer.Option(metavar="COLUMN,...", help="Columns to copy to the answers, as `input`.")]
To = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file that does not exist yet; standard output if left out.")
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="int8|fp32|fp16|torch",
        help="The file of an export that answers: an ONNX file, or the weights in torch. If left out: int8, fp32 or "
        "torch, the first that there is.",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads; OMP_NUM_THREADS, or the usable cores, if left out.")
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Most texts in a batch; 1 for answers that depend on no other text."),
]


def predict(
    student: Student,
    texts: Texts = None,
    pair: Pair = None,
    choice: Choice = None,
    file: File = None,
    text_columns: TextColumns = None,
    keep: Keep = None,
    encoding: Annotated[str | None, typer.Option(metavar="NAME", help="Encoding of the input, such as cp1252.")] = None,
    to: To = None,
    precision: Precision = None,
    threads: Threads = None,
    batch: Batch = None,
    store: StoreOption = None,
) -> None:
    """Answer texts, a file or standard input with a student.

    [bold]Examples[/bold]
      distill predict films-20261127-101010 "a film to see twice"
      distill predict ./exported --file new.csv --to answers.jsonl
      cat texts.txt | distill predict ./exported -
    """
    from pipeline.predict.command import Asked
    from pipeline.predict.command import predict as answer

    asked = Asked(
        texts=texts or (),
        pairs=pair or (),
        choices=choice or (),
        file=file,
        columns=text_columns,
        kept=keep,
        encoding=encoding,
        to=to,
        precision=precision,
        threads=threads,
        batch=batch,
        store=store,
    )
    answer(student, asked, Console(stderr=True, highlight=False))
