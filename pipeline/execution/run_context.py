"""The parts that every stage of a flow run uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefect import runtime

from pipeline.execution.progress import LineProgress, TerminalProgress
from pipeline.process.settings import Settings
from pipeline.process.stopping import Stop
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.open_runs import OpenRun
from pipeline.tracking.parameters import recipe_params
from pipeline.tracking.session import TrackedRun, Tracking
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


@contextmanager
def tracked_run(
    settings: Settings,
    store: CheckpointStore,
    progress: TerminalProgress | LineProgress,
    stop: Stop,
    open_run: OpenRun,
    recipe: Recipe,
    name: str,
) -> Iterator[tuple[RunContext, TrackedRun]]:
    """The context of a flow run with its MLflow parent run, which ends with the block."""
    tracking = Tracking(settings.tracking_uri, settings.experiment, store.points, artifacts=settings.artifacts)
    stop.when_asked.append(tracking.hurry)
    try:
        tags = {"distill.recipe": recipe.name, "distill.flow_run": str(runtime.flow_run.name or "")}
        with tracking.start_run(name, recipe_params(recipe), tags) as run:
            yield RunContext(store, tracking, progress, stop, open_run, settings.exports), run
        tracking.send_kept()
    finally:
        tracking.close()
