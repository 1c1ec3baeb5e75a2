"""The training of a stage that no store has, wherever it is trained: its request, its MLflow run, its outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.execution.mlflow_notes import log_picture
from pipeline.execution.run_context import RunContext
from pipeline.processes.launch import run_in_processes
from pipeline.processes.wire import Request
from pipeline.reporting.loss_curves import loss_curves
from pipeline.reporting.term_map import term_map
from pipeline.store.open_runs import needs_of
from pipeline.store.states import FolderStates
from pipeline.tracking.client import CHECKPOINT_TAG
from pipeline.tracking.parameters import stage_params
from pipeline.tracking.session import TrackedRun
from pipeline.tracking.system_metrics import system_metrics
from schemas.core.base import Frozen, digest_of
from schemas.data.stage_data import describe_data
from schemas.recipe.parts import Execution
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef, StageResult
from stages.device.launch import number_of_processes
from stages.identity import changed_since
from stages.ports.protocols import Ports
from stages.run import run_stage
from stages.storage.sealed_folder import MANIFEST


class StageWork(Frozen):
    """A stage that is to be trained: JSON, so that it can be asked for from another machine."""

    config: StageConfig
    parent: CheckpointRef | None
    """Checkpoint that the student continues from; null for a fresh start."""
    identity: dict[str, Any]
    """Everything that the stage's digest covers."""
    execution: Execution
    title: str
    """Name of the stage in messages."""
    run_name: str
    """Name of its MLflow run."""
    tags: dict[str, str]
    """Tags of its MLflow run."""

    @property
    def digest(self) -> str:
        """The stage's digest."""
        return digest_of(self.identity)


@contextmanager
def trained(
    work: StageWork, context: RunContext, parent: TrackedRun | None = None
) -> Iterator[tuple[StageResult, TrackedRun]]:
    """Train a stage; yield its result and its MLflow run, which ends with the block.

    Args:
        work: the stage.
        context: the parts that all stages of the flow run use.
        parent: the MLflow run that it is shown under; None if its tags say so.

    Raises:
        DistillError: as `stages.run.run_stage`.
    """
    tracking, config = context.tracking, work.config
    # The worker of a pool is the only one that makes the stage.
    resumed = tracking.run_to_continue(work.digest, is_owner=parent is None)
    with tracking.start_run(work.run_name, stage_params(config), work.tags, parent=parent, resumed=resumed) as run:
        if (data := data_of(config, work.identity)) is not None:
            run.log_dataset(*data)
        with system_metrics(run):
            result = _train(work, context, run)
        run.set_tags({CHECKPOINT_TAG: result.checkpoint.path})
        if changed := changed_since(work.identity, config, work.parent.digest if work.parent else None):
            context.progress.note(
                f"{work.title}: since it began, {changed}; it was trained on the earlier version, and the next run "
                "will train it again"
            )
        yield result, run


def data_of(config: StageConfig, identity: dict[str, Any]) -> tuple[str, str, str] | None:
    """Name, digest and source of a stage's data; None for a stage of versions that did not record the digest."""
    if "data" not in identity:
        return None
    return describe_data(config.data), str(identity["data"]), config.data.model_dump_json()


def log_training(run: TrackedRun, config: StageConfig, manifest: str) -> None:
    """Store a stage's config and manifest, and the pictures of its curves, beside its numbers."""
    run.log_file(config.model_dump_json(indent=2), "config.json")
    run.log_file(manifest, MANIFEST)
    if run.points.is_file():
        log_picture(run, loss_curves(run.points, config.name), "curves.png")
        run.log_file(term_map(run.points, config.name), "terms.png")


def _train(work: StageWork, context: RunContext, run: TrackedRun) -> StageResult:
    states = context.store.states(work.config.name, work.digest, needs_of(work.config, work.parent))
    try:
        return _trained(work, _ports(work, context, run, states), context)
    except BaseException:
        states.send()
        raise


def _trained(work: StageWork, ports: Ports, context: RunContext) -> StageResult:
    number = number_of_processes(work.execution.launch)
    if number == 1 and context.machines is None:
        return run_stage(work.config, work.parent, ports, work.identity)
    request = Request(
        config=work.config,
        parent=work.parent,
        identity=work.identity,
        digest=work.digest,
        needs=tuple(sorted(needs_of(work.config, work.parent))),
        store=str(context.store.root),
        execution=work.execution,
        mlflow_run_id=ports.mlflow_run_id,
    )
    return run_in_processes(number, request, ports, context.machines)


def _ports(work: StageWork, context: RunContext, run: TrackedRun, states: FolderStates) -> Ports:
    store, execution, name = context.store, work.execution, work.config.name
    return Ports(
        sink=run,
        progress=context.progress,
        states=states,
        checkpoints=store.writer(name, work.digest),
        cache=store.cache,
        mlflow_run_id=run.run_id,
        log_every=execution.log_every,
        microbatch_tokens=execution.microbatch_tokens,
        state_minutes=execution.state_minutes,
        gradient_share_every=execution.gradient_share_every,
        teacher_cache_bytes=round(execution.teacher_cache_gigabytes * 1e9),
        stop_requested=context.stop,
        shielded=context.stop.shielded,
    )
