"""The parts that every stage of a flow run uses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from prefect import runtime
from prefect.client.schemas.objects import State

from pipeline.engines.request import Member
from pipeline.process.settings import Settings
from pipeline.process.stopping import Stop
from pipeline.processes.machines import Machines, gathered_machines
from pipeline.progress.parts import RunProgress
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.open_runs import OpenRun
from pipeline.tracking.parameters import recipe_params
from pipeline.tracking.server import PARENT_TAG
from pipeline.tracking.session import TrackedRun, Tracking
from pipeline.tracking.views import RUN_TAG
from schemas.recipe.recipe import Recipe
from stages.ports.protocols import Progress


@dataclass(frozen=True)
class RunContext:
    """Destinations of checkpoints, numbers and messages, and the request to stop."""

    store: CheckpointStore
    tracking: Tracking
    progress: Progress
    stop: Stop
    open_run: OpenRun
    """Record of the stages that `distill gc` must leave in the store."""
    exports: bool
    """True to export the student at the end."""
    run_progress: RunProgress = field(default_factory=RunProgress)
    """The course of the run, part by part."""
    finished: dict[str, State] = field(default_factory=dict)
    """Prefect's states of the stages that this run has finished or reused, by their digests."""
    machines: Machines | None = None
    """The other machines that train its stages; None if there are none."""


@contextmanager
def tracked_run(
    settings: Settings,
    store: CheckpointStore,
    progress: RunProgress,
    stop: Stop,
    open_run: OpenRun,
    recipe: Recipe,
    name: str,
    tags: Mapping[str, str],
    member: Member | None = None,
) -> Iterator[tuple[RunContext, TrackedRun]]:
    """The context of a flow run with its MLflow parent run, which ends with the block."""
    tracking = Tracking(settings.tracking_uri, settings.experiment, store.points, artifacts=settings.artifacts)
    stop.when_asked.append(tracking.hurry)
    try:
        tags = {"distill.recipe": recipe.name, "distill.flow_run": str(runtime.flow_run.name or ""), **tags}
        # MLflow cuts names after some 17 signs, so what tells runs apart comes first.
        title = f"{time.strftime('%d %b %H:%M:%S')} {recipe.name}"
        if member is None or not member.is_shared:
            tags[RUN_TAG] = name
        if member is not None:
            title, tags[PARENT_TAG] = member.title, member.run_above
        with (
            gathered_machines(recipe.execution.launch, store, open_run) as machines,
            tracking.start_run(title, recipe_params(recipe), tags) as run,
        ):
            context = RunContext(store, tracking, progress, stop, open_run, settings.exports, progress)
            yield replace(context, machines=machines), run
        tracking.send_kept()
    finally:
        tracking.close()
