"""Checks of an engine's settings, by plans and at the start of a run."""

from __future__ import annotations

import importlib.util

from pipeline.engines.own_processes import shares_of
from pipeline.process.prefect_api import prepare_environment
from schemas.core.errors import ConfigError
from schemas.recipe.parts import Execution


def check_engine(execution: Execution) -> list[str]:
    """Check that the engine of a recipe can be used; return remarks on it.

    Raises:
        ConfigError: this machine has too few GPUs, stages are trained on several machines; or for Ray, packages are
            missing or no Prefect server is named.
    """
    engine, machines = execution.engine, execution.launch.machines
    if engine.is_apart and machines > 1:
        raise ConfigError(
            f"execution.launch.machines: {machines}, but execution.engine has several runs go on at once, which would "
            "all wait for the same machines; set machines to 1, or execution.engine.kind to threads and at_once to 1"
        )
    if engine.kind == "threads":
        if engine.at_once > 1:
            shares_of(engine)
        return []
    prepare_environment()
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError(
            "execution.engine.kind: ray, but PREFECT_API_URL is not set, and the tasks of a cluster cannot reach the "
            "server that a run starts for itself; start one with: prefect server start, then: export "
            "PREFECT_API_URL=http://HOST:4200/api, or use this machine alone: --set execution.engine.kind=threads"
        )
    if importlib.util.find_spec("prefect_ray") is None:
        raise ConfigError(
            "execution.engine.kind: ray needs more packages: pip install 'distill-flow[ray]'; or use this "
            "machine alone: --set execution.engine.kind=threads"
        )
    return []
