"""Command that lends this machine to a run of another: `distill join`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.process.console import err
from pipeline.process.options import StoreOption
from pipeline.process.prefect_api import prepare_environment
from pipeline.process.terminal import say


def join(
    rendezvous: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="The run's execution.launch.rendezvous, such as 10.0.0.1:29400.")
    ],
    processes: Annotated[
        str | None,
        typer.Option(
            "--processes", metavar="N", help="Processes of this machine, or auto; those of the run if left out."
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Lend this machine to the run of another one, until that ends.

    [bold]Example[/bold]
      distill join 10.0.0.1:29400 --store s3://BUCKET/PATH
    """
    prepare_environment()
    from pipeline.processes.join import join as work

    work(rendezvous, store, processes, lambda line: say(err, line))
