"""A stage that a worker of a work pool makes: what it is told, and what the store then has."""

from __future__ import annotations

import math
import time
from typing import Any

from pipeline.execution.run_context import RunContext
from pipeline.execution.stage_training import StageWork
from pipeline.pools.child import Order, make_on_pool
from pipeline.store.checkpoints import verify
from pipeline.tracking.server import PARENT_TAG
from pipeline.tracking.session import TrackedRun
from schemas.core.base import Frozen
from schemas.core.errors import CheckpointError
from schemas.results.manifest import CheckpointRef, Manifest

_ARRIVAL_SECONDS = 60.0
"""Time that a shared folder of a network may take to show a file to other machines."""


class PoolStage(Frozen):
    """Everything that the worker is told."""

    work: StageWork
    store: str
    """Address of an object store, or a folder that both machines have."""
    record: str | None
    """File of that folder which is there while the run lives; null for an object store."""
    experiment: str
    """Experiment of MLflow."""


def made_on_pool(pool: str, work: StageWork, context: RunContext, run: TrackedRun) -> tuple[CheckpointRef, Manifest]:
    """Have a worker of a pool make a stage; return it as it is in the store.

    Args:
        pool: name of the work pool.
        work: the stage.
        context: the parts that all stages of the flow run use.
        run: the MLflow run that the stage's run is shown under.

    Raises:
        CheckpointError: the worker has finished it in another store.
        DistillError: as `pipeline.pools.child.make_on_pool`.
    """
    store, name = context.store, work.config.name
    parent = None if work.parent is None else work.parent.model_copy(update={"path": ""})  # the worker's store knows
    told = PoolStage(
        work=work.model_copy(update={"parent": parent, "tags": {**work.tags, PARENT_TAG: run.points.stem}}),
        store=str(store.root) if store.remote is None else store.remote.address,
        record=str(context.open_run.path.relative_to(store.root)) if store.remote is None else None,
        experiment=context.tracking.experiment,
    )
    parameters: dict[str, Any] = {"stage": told.model_dump(mode="json")}
    order = Order(pool, work.title, work.digest, work.run_name, parameters, work.execution.pool_minutes)
    with context.stop.shielded(math.inf):  # a stop is passed on, and the worker given time to save the state
        made_by = make_on_pool(order, context.progress, context.stop)
    end = time.monotonic() + _ARRIVAL_SECONDS
    while (match := store.find(name, work.digest)) is None and time.monotonic() < end:
        time.sleep(1.0)
    if match is None:
        raise CheckpointError(
            f"{work.title}: Prefect's run {made_by} on work pool {pool} has finished, but {told.store} has no {name} "
            f"of digest {work.digest[:16]}; check that its worker sees the same store"
        )
    return match[0], verify(store.folder(name, work.digest))
