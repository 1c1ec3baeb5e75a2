"""Commands that run stages or look at single checkpoints: `distill run`, `evaluate`, `verify` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.process.console import err, out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.process.terminal import say
from pipeline.recipes.arguments import FromOption, RecipesArgument, SetOption, UntilOption


def run(
    recipe: RecipesArgument,
    changes: SetOption = None,
    from_stage: FromOption = None,
    until_stage: UntilOption = None,
    resume_from: Annotated[
        str | None,
        typer.Option("--resume-from", metavar="CHECKPOINT", help="A checkpoint folder, or mlflow:RUN_ID, to continue."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train what recipes say; the same command goes on after a stop.

    [bold]Examples[/bold]
      distill run quickstart
      distill run films.yaml --set task.max_length=64
      distill run films.yaml --from task_specific
      distill run films.yaml wide.yaml --set 'seeds=[0,1,2]'
    """
    from pipeline.launch import run_recipes
    from pipeline.reporting.console_reports import print_report
    from pipeline.tracking.open_ui import mlflow_ui
    from schemas.results.report import AnyReport, RunsFailed

    def show(report: AnyReport) -> None:
        if as_json:
            print_json(report)
        else:
            print_report(report, out, mlflow=mlflow_ui(report.store))

    options = {
        "from_stage": from_stage,
        "until_stage": until_stage,
        "resume_from": resume_from,
        "store": str(store) if store else None,
    }
    try:
        show(run_recipes(recipe, changes or [], options))
    except RunsFailed as error:
        show(error.report)
        raise


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.")],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Such as docstrings, sst2, a folder of files, a recipe's file for its task, or a mapping as in a "
            "recipe: '{kind: files, train: a.csv, validation: b.csv}'. Fields that a folder or a mapping leaves open "
            "are those of the checkpoint's training.",
        ),
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a student and its teacher on a task's labelled rows.

    [bold]Example[/bold]
      distill evaluate distill-store/checkpoints/task_specific-… --task ./test.csv
    """
    from pipeline.evaluate import evaluate_checkpoint, print_scores

    scores = evaluate_checkpoint(checkpoint, task, store)
    if as_json:
        print_json(scores)
    else:
        print_scores(scores, out)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a checkpoint or of an export.")],
    as_json: JsonOption = False,
) -> None:
    """Check that no file of a checkpoint or an export is damaged."""
    from pipeline.verify import verified

    path, manifest = verified(folder)
    if as_json:
        print_json(manifest)
        return
    total = sum(entry.size for entry in manifest.files.values())
    say(out, f"{path}: {len(manifest.files)} files, {total / 1e6:.1f} MB, all match the manifest")


def serve() -> None:
    """Offer every recipe in Prefect's UI, until stopped."""
    from pipeline.deployment import serve_recipes

    serve_recipes(err)
