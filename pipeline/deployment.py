"""Every shipped recipe as a Prefect deployment: `prefect deployment run distill-flow/quickstart`."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

from pipeline.launch import check_server, prefect_errors, prepare_environment
from pipeline.process.terminal import say
from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.core.errors import ServiceError


def serve_recipes(console: Console) -> None:
    """Serve a deployment per recipe from this process until it is stopped; one run at a time.

    Raises:
        ServiceError: no Prefect server is named, it does not answer, or it wants other credentials.
    """
    prepare_environment()
    if not os.environ.get("PREFECT_API_URL"):
        raise ServiceError(
            "PREFECT_API_URL is not set, so there is no server to serve deployments to; start one with: "
            "prefect server start, then: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_server(patience=60.0)
    from prefect import serve

    from pipeline.flow import distill_flow

    deployments: list[Any] = [  # typed by Prefect as if it could be a coroutine here
        distill_flow.to_deployment(
            name=name, description=read_recipe(name).description, parameters={"recipe": name}, tags=["distill"]
        )
        for name in shipped_names()
    ]
    for name in shipped_names():
        say(console, f"prefect deployment run distill-flow/{name}")
    with prefect_errors("distill serve"):
        serve(*deployments, limit=1, print_starting_message=False)
