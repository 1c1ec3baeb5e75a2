"""The command line. Every command exits with 0 on success, 2 on a mistake in its input, 1 on a failure of the run."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.predict.cli import predict
from pipeline.process.logs import log_to_stderr
from pipeline.process.options import JsonOption, StoreOption
from pipeline.process.terminal import is_unicode, make_streams_lenient, safe, say, shown
from pipeline.registry.cli import register
from schemas.core.credentials import secrets_of, without_credentials, without_secrets
from schemas.core.errors import DistillError, Interrupted, ServiceError

app = typer.Typer(
    name="distill",
    help="Progressive multi-stage distillation of transformer encoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A pipe has no width; a table cut to 80 columns would lose its numbers.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
_EXIT_SECONDS = 1.0
err = Console(stderr=True, highlight=False)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="K=V",
        help="Change the recipe, such as student.shape.num_layers=3. task=NAME selects another task (docstrings, sst2, "
        "./folder), which inherits max_length, and from a task of the same kind max_train_rows and seed; naming the "
        "recipe's own task changes nothing. tasks=[NAME,NAME] selects several for one run.",
    ),
]


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not is_unicode(sys.stdout.encoding)) + "\n")


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """List the shipped recipes."""
    from pipeline.recipes.shipped import read_recipe, shipped_names

    loaded = [read_recipe(name) for name in shipped_names()]
    if as_json:
        _print_json([{"name": recipe.name, "description": recipe.description} for recipe in loaded])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for recipe in loaded:
        table.add_row(shown(recipe.name, "bold"), shown(recipe.description))
    out.print(table)


@app.command()
def show(recipe: RecipeArgument, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """Print the resolved recipe as YAML."""
    from pipeline.recipes.shipped import read_recipe
    from schemas.loading.dump import dump_recipe

    resolved = read_recipe(recipe, changes or [])
    if as_json:
        _print_json(resolved.model_dump(mode="json"))
    else:
        sys.stdout.write(dump_recipe(resolved))


@app.command()
def plan(
    recipe: RecipeArgument, changes: SetOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Print the stages to run and to reuse, with parameters, tokens, operations and estimated time."""
    from pipeline.planning.per_task import check_data
    from pipeline.recipes.shipped import read_recipe
    from stages.data.readers.first_reading import first_reading

    resolved = read_recipe(recipe, changes or [])
    with first_reading():
        check_data(resolved, store)
        from pipeline.planning.plan import make_plan, print_plan

        planned = make_plan(resolved, store)
    if as_json:
        _print_json(planned.model_dump(mode="json"))
    else:
        print_plan(planned, out)


@app.command()
def run(
    recipe: RecipeArgument,
    changes: SetOption = None,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Begin with this stage; the store must have those before it."),
    ] = None,
    until_stage: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="End after this stage.")] = None,
    resume_from: Annotated[
        str | None,
        typer.Option("--resume-from", metavar="CHECKPOINT", help="A checkpoint folder, or mlflow:RUN_ID, to continue."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe; stages that the store has are reused."""
    from pipeline.launch import run_recipe
    from pipeline.reporting.console_reports import print_report

    report = run_recipe(
        recipe,
        changes or [],
        {
            "from_stage": from_stage,
            "until_stage": until_stage,
            "resume_from": resume_from,
            "store": str(store) if store else None,
        },
    )
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        print_report(report, out, mlflow=_mlflow(report.store))


def _mlflow(store: str) -> tuple[str | None, str]:
    """The command that opens MLflow's UI on this store (None if a server runs), and its address."""
    from pipeline.launch import program
    from pipeline.process.settings import read_settings
    from pipeline.tracking.client import was_moved

    settings = read_settings(store)
    uri = settings.tracking_uri
    if not uri.startswith("sqlite:"):
        return None, without_credentials(uri)
    words = [program("mlflow"), "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", "5000"]
    command = shlex.join(words)
    if was_moved(uri, settings.artifacts):  # MLflow finds the artifacts only afterwards
        command = f"{shlex.join([program('distill'), 'sync', '--store', store])} && {command}"
    return command, "http://127.0.0.1:5000"


@app.command()
def compare(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Name of a run; the newest if left out.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results of a run: its stages side by side, or its tasks."""
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_report
    from pipeline.store.checkpoints import look_into_store

    settings = read_settings(store)
    report = look_into_store(settings.store).read_report(run)
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        print_report(report, out, mlflow=_mlflow(report.store))


@app.command()
def report(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Name of a run; the newest if left out.")] = None,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")] = Path("report.html"),
    quick: Annotated[bool, typer.Option("--quick", help="Export and measure nothing that the run did not.")] = False,
    store: StoreOption = None,
) -> None:
    """Write a run as one HTML page: verdict, stages, layers, answers, and what is shipped."""
    from pipeline.html.command import write_report

    written = write_report(run, to, lambda line: say(err, line), store, measured=not quick)
    say(out, f"{to}: the report of {written.run}")


@app.command()
def sync(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Send what could not be sent to MLflow during runs: points, pictures, texts, models."""
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_sync
    from pipeline.store.checkpoints import look_into_store
    from pipeline.tracking.server import sync as send_kept

    settings = read_settings(store)
    report = send_kept(settings, look_into_store(settings.store).points)
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        print_sync(report, out)
    if report.failure:
        raise ServiceError(report.failure)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.")],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="Such as docstrings, sst2, a folder of files, a recipe's file for its task, or a mapping as in a "
            "recipe: '{kind: files, train: a.csv, validation: b.csv}'. Fields that a folder or a mapping leaves open "
            "are those of the checkpoint's training.",
        ),
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a checkpoint and the teacher that it learned from."""
    from pipeline.evaluate import evaluate_checkpoint, print_scores

    scores = evaluate_checkpoint(checkpoint, task, store)
    if as_json:
        _print_json(scores.model_dump(mode="json"))
    else:
        print_scores(scores, out)


@app.command()
def export(
    name: Annotated[
        str, typer.Argument(metavar="CHECKPOINT|RUN", help="A checkpoint folder, or a run's last student.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that does not exist yet.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file in float32.")] = False,
    int8: Annotated[
        str | None,
        typer.Option("--int8", metavar="dynamic|static", help="Write one in 8-bit integers too."),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Write one in 16-bit numbers too: half the size.")] = False,
    prune_vocabulary: Annotated[
        str | None,
        typer.Option(
            metavar="task|FILE",
            help="Keep the word pieces of the task's training texts, and of a text file, and say what that costs.",
        ),
    ] = None,
    triton: Annotated[bool, typer.Option("--triton", help="Add the layout of Triton and KServe.")] = False,
    opset: Annotated[int, typer.Option(min=18, help="Version of ONNX's operators.")] = 18,
    most_loss: Annotated[
        float, typer.Option(min=0, metavar="POINTS", help="Points of the main score that 8-bit integers may cost.")
    ] = 1.0,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Rows to check the files on; the training's if left out."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a student as a folder to deploy, each file checked against the checkpoint."""
    from pipeline.export.export import Wanted, mode_of, print_export
    from pipeline.export.export import export as export_student

    wanted = Wanted(onnx, mode_of(int8), fp16, prune_vocabulary, triton, opset, most_loss)
    exported = export_student(name, to, wanted, task, store)
    if as_json:
        _print_json(exported.model_dump(mode="json"))
    else:
        print_export(exported, to, out)


app.command()(predict)
app.command()(register)


@app.command()
def latency(
    names: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Checkpoints, runs, exports, or models as in a recipe.")
    ],
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The reference; the first checkpoint's teacher if left out.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Texts in a call, such as 1,16.")] = "1",
    length: Annotated[
        str | None, typer.Option(help="Tokens of each text, such as 16,32,128; its own if left out.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads, such as 1,2.")] = "1",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all models take turns.")] = 5,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long models take for texts of a checkpoint's task."""
    from pipeline.latency.command import Shapes, measure_latency, numbers, print_latency

    lengths = (None,) if length is None else numbers(length, "--length")
    shapes = Shapes(numbers(batch, "--batch"), lengths, numbers(threads, "--threads"), rounds)
    report = measure_latency(names, against, shapes, store)
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        print_latency(report, out)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="CHECKPOINT|EXPORT", help="The folder of a checkpoint or export.")],
    as_json: JsonOption = False,
) -> None:
    """Check every file of a checkpoint, or of an export, against its manifest."""
    from pipeline.verify import verified

    path, manifest = verified(folder)
    if as_json:
        _print_json(manifest.model_dump(mode="json"))
        return
    total = sum(entry.size for entry in manifest.files.values())
    say(out, f"{path}: {len(manifest.files)} files, {total / 1e6:.1f} MB, all match the manifest")


@app.command()
def gc(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what has not been written to for this long.")
    ] = "7 days",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; otherwise only list it.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what no run and no checkpoint needs any more, and remove it with --yes."""
    from pipeline.process.settings import read_settings
    from pipeline.reporting.console_reports import print_garbage
    from pipeline.store.checkpoints import look_into_store
    from pipeline.store.garbage import find_garbage, remove_garbage, seconds_of

    age = seconds_of(older_than)
    opened = look_into_store(read_settings(store).store)
    garbage = find_garbage(opened, older_than=age)
    if yes:
        garbage = remove_garbage(opened, garbage)
    if as_json:
        _print_json(garbage.model_dump(mode="json"))
    else:
        print_garbage(garbage, out)


@app.command()
def serve() -> None:
    """Serve local deployments of every recipe until stopped."""
    from pipeline.deployment import serve_recipes

    serve_recipes(err)


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from schemas.loading.dump import recipe_schema

    _print_json(recipe_schema())


def main() -> None:
    """Run the command line; a mistake or a failure is one message, never a traceback."""
    make_streams_lenient()
    secrets = secrets_of(os.environ)
    try:
        log_to_stderr()
        app()
    except DistillError as error:
        for line in getattr(error, "problems", (str(error),)):
            message = Text.assemble(("error:", "red"), f" {safe(without_secrets(line, secrets))}")
            err.print(message, soft_wrap=True)
        if isinstance(error, Interrupted):
            _end_soon(error.exit_code)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _end_soon(code: int) -> None:
    """Libraries have threads to join and news to send when the interpreter ends; whoever pressed Ctrl-C has waited."""
    timer = threading.Timer(_EXIT_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()
