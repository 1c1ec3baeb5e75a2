"""Shipped recipes as Prefect deployments: `prefect deployment run distill-flow/quickstart`.

`python -m pipeline.deployment > prefect.yaml` renews the file with which `prefect deploy --all` registers them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console

from pipeline.pools.registered import DESCRIPTION, ENTRYPOINT, JOB_VARIABLES
from pipeline.process.prefect_api import check_server, prefect_errors, prepare_environment
from pipeline.process.terminal import say
from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.core.errors import ServiceError

_HEAD = """\
# Written by `python -m pipeline.deployment > prefect.yaml`. Deployments for a work pool:
# prefect work-pool create distill --type process; prefect deploy --all; prefect worker start --pool distill.
# On one machine `distill serve` needs none of that.
name: distill-flow

pull:
  - prefect.deployments.steps.set_working_directory:
      directory: "{{ $DISTILL_HOME }}"

definitions:
  recipe: &recipe
    entrypoint: pipeline.flow.distill_flow
    tags: [distill]
    work_pool: {name: distill}

deployments:
"""
_STAGES = f"""\
  # Stages of runs with execution.pools={{STAGE: distill}}. For another pool a run makes such a deployment itself.
  - name: distill
    entrypoint: {ENTRYPOINT}
    tags: [distill]
    description: {json.dumps(DESCRIPTION)}
    work_pool: {{name: distill, job_variables: {json.dumps(JOB_VARIABLES)}}}
"""


def deployments_yaml() -> str:
    """The text of prefect.yaml: one deployment per shipped recipe, and that of stages."""
    recipes = (
        f"  - <<: *recipe\n    name: {name}\n    parameters: {{recipe: {name}}}\n"
        f"    description: {json.dumps(read_recipe(name).description, ensure_ascii=False)}\n"
        for name in shipped_names()
    )
    return _HEAD + "".join(recipes) + _STAGES


def serve_recipes(console: Console) -> None:
    """Serve one deployment per recipe from this process until it is stopped, one run at a time.

    Raises:
        ServiceError: no Prefect server is named, it does not answer, or it requires other credentials.
    """
    prepare_environment()
    if not os.environ.get("PREFECT_API_URL"):
        raise ServiceError(
            "PREFECT_API_URL is not set, so there is no server to serve deployments to; start one with: "
            "prefect server start, then: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_server(patience=60.0)
    say(console, "registering the recipes as Prefect deployments")
    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    from pipeline.flow import distill_flow

    runner = Runner(name="distill serve", limit=1, pause_on_shutdown=True)
    with prefect_errors("distill serve"):
        for name in shipped_names():
            deployment: Any = distill_flow.to_deployment(  # Prefect's type allows for a coroutine
                name=name,
                description=read_recipe(name).description,
                parameters={"recipe": name},
                tags=["distill"],
                # By a file's path its folder would be searched for modules, and `pipeline/html` found for Python's own.
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
            runner.add_deployment(deployment)
        say(
            console,
            f"ready: serving {len(shipped_names())} recipes, one run at a time; stop with Ctrl-C. Start a run from "
            "another terminal, such as: prefect deployment run distill-flow/quickstart",
        )
        with suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(runner.start())
    say(console, "stopped serving")


if __name__ == "__main__":
    sys.stdout.write(deployments_yaml())
