"""The command line. Every command exits with 0 on success, 2 on a mistake in its input, 1 on a failure of the run.

A command's options are in the `cli.py` of its folder, which imports the work itself only when the command is run.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from pipeline.cli import evaluate, run, serve, verify
from pipeline.command_style import Command, Group
from pipeline.export.cli import export
from pipeline.html.cli import report
from pipeline.init.cli import init
from pipeline.latency.cli import latency
from pipeline.planning.cli import plan, recipes, schema, show
from pipeline.predict.cli import predict
from pipeline.process.console import err
from pipeline.process.logs import log_to_stderr
from pipeline.process.terminal import make_streams_lenient, safe
from pipeline.processes.cli import join
from pipeline.registry.cli import register
from pipeline.runs.cli import compare, gc, runs, sync
from schemas.core.credentials import secrets_of, without_secrets
from schemas.core.errors import DistillError, Interrupted
from stages.versions import installed_versions

COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Distil": (init, recipes, show, plan, run),
    "Look at results": (runs, compare, report, evaluate),
    "Use the student": (predict, export, latency, register),
    "Housekeeping": (serve, join, sync, verify, gc, schema),
}
"""Commands by the panel of `distill --help` that lists them, in the order in which a newcomer meets them."""
_EXIT_SECONDS = 1.0
_HELP = """Distil a transformer encoder into a small, fast one, in up to four stages.

[bold]Start here[/bold]
  distill run quickstart        a first run, without a network
  distill init my.csv           a recipe for my data
  distill plan my.yaml          is my recipe right? what will it cost?
  distill run my.yaml           train; again after a stop: go on
  distill compare               which stage helped?
  distill predict RUN "a text"  ask the student
"""


def _version(is_asked: bool) -> None:
    if is_asked:
        versions = installed_versions()
        number, _, commit = versions["distill-flow"].partition("+")
        about = f"{f'commit {commit[:10]}, ' if commit else ''}Python {versions['python']}, torch {versions['torch']}"
        sys.stdout.write(f"distill {number} ({about})\n")
        raise typer.Exit


app = typer.Typer(
    name="distill",
    help=_HELP,
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    is_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before a command; Typer takes the help from `app`."""


for _panel, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(cls=Command, rich_help_panel=_panel)(_command)


def main() -> None:
    """Run the command line; a mistake or a failure is one message, never a traceback."""
    make_streams_lenient()
    secrets = secrets_of(os.environ)
    try:
        log_to_stderr()
        app(prog_name="distill")
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
