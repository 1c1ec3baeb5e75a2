"""A run of a recipe with one task, or with none: teachers, stages, baselines, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.execution.run_context import RunContext
from pipeline.execution.run_report import make_report, publish
from pipeline.execution.stage_runner import StageRunner
from pipeline.planning.options import RunOptions
from pipeline.planning.outline import needs_made_teachers
from pipeline.process.settings import Settings
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint
from pipeline.store.open_runs import OpenRun
from pipeline.tracking.artifacts import resolve_run
from pipeline.tracking.session import TrackedRun
from schemas.core.errors import ConfigError
from schemas.recipe.expand import baseline_config, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe, Variant
from schemas.recipe.stage import STAGE_ORDER, Stage
from schemas.recipe.teacher import FineTune
from schemas.results.manifest import CheckpointRef, RunReport
from stages.preflight.checks import PreflightResult
from stages.storage.sealed_folder import MANIFEST


@dataclass(frozen=True)
class RunPlan:
    """Stages and baselines to run of a recipe with one task, or with none."""

    recipe: Recipe
    name: str
    """Name of its report."""
    facts: PreflightResult
    """Findings of the preflight checks about models and data."""
    stages: list[Stage]
    """In order."""
    parent: CheckpointRef | None
    """Checkpoint that the first of them continues from; None for a fresh start."""
    has_baselines: bool
    """True if the student is compared with the recipe's baselines."""
    variant: Variant
    """Its task and seed among several."""


def run_plan(plan: RunPlan, context: RunContext, run: TrackedRun, *, began: float) -> RunReport:
    """Run the stages and baselines of a plan and report on them, in the store, in MLflow and in Prefect.

    Args:
        plan: the plan.
        context: the parts that all stages of the flow run use.
        run: the MLflow run that those of the stages are shown under.
        began: `time.monotonic()` when the run began.
    """
    runner = StageRunner(plan.recipe, context, run, plan.variant)
    run_stages(runner, plan.stages, plan.parent)
    if plan.has_baselines:
        _run_baselines(runner)
    context.progress.phase("writing the report")
    report = make_report(runner, plan.name, plan.facts)
    # Whoever ends a run at a stage will not deploy what it made.
    shipping = runner.ship_in_prefect(report, exported=plan.has_baselines and context.exports)
    report = report.model_copy(update={"shipping": shipping, "seconds": time.monotonic() - began})
    report = context.store.write_report(report)
    key = "-".join(filter(None, (report.recipe, plan.variant.name)))
    publish(report, run, context.tracking, key=key)
    return report


def run_stages(runner: StageRunner, stages: list[Stage], parent: CheckpointRef | None) -> None:
    """Fine-tune the teachers that the stages need, then run each stage on the checkpoint of the one before."""
    recipe = runner.recipe
    fine_tunes = needs_made_teachers(stages)
    if recipe.task is not None and not (fine_tunes and isinstance(recipe.teacher.task_model, FineTune)):
        with runner.part("teacher") as part:
            runner.context.progress.phase("judging")
            part.result = runner.judge.words(runner.judge.add_published_teacher())
    for config in teacher_configs(recipe) if fine_tunes else ():
        runner.run_in_prefect(config, None)
    if recipe.task is not None:
        runner.context.progress.phase("checking the teacher")
        runner.judge.check_teachers()
    for stage in stages:
        config = stage_config(recipe, stage, runner.teachers.available)
        if parent is None and recipe.task is not None:
            runner.judge.add_start(config)
        parent = runner.run_in_prefect(config, parent).checkpoint


def _run_baselines(runner: StageRunner) -> None:
    tokens = sum(row.tokens or 0 for row in runner.judge.rows if row.kind == "stage")
    if "hard_labels" in runner.recipe.baselines:
        runner.run_in_prefect(baseline_config(runner.recipe, tokens=tokens), None)
    if "bag_of_words" in runner.recipe.baselines:
        runner.bag_of_words_in_prefect()


def resumed_checkpoint(
    source: str | None, store: CheckpointStore, settings: Settings, open_run: OpenRun
) -> CheckpointRef | None:
    """The checkpoint of `--resume-from`, verified file by file and recorded as needed; None without that option."""
    if source is None:
        return None
    folder: str | Path = source
    if source.startswith("mlflow:"):
        folder = resolve_run(source.removeprefix("mlflow:"), uri=settings.tracking_uri, store=store)
    checkpoint, _ = open_checkpoint(folder)
    open_run.needs({checkpoint.digest})
    if not (Path(checkpoint.path) / MANIFEST).is_file():  # removed before it was recorded
        checkpoint, _ = open_checkpoint(folder)
    return checkpoint


def stages_after(parent: CheckpointRef, recipe: Recipe, stages: list[Stage], options: RunOptions) -> list[Stage]:
    """The chosen stages that are left after a checkpoint.

    Raises:
        ConfigError: the checkpoint is not a student's, several tasks cannot continue from it, or nothing is left.
    """
    if parent.stage not in STAGE_ORDER:
        raise ConfigError(f"--resume-from {parent.path}: it is a {parent.stage} checkpoint, not a student's")
    shared = [STAGE_ORDER[0], *(stage.name for stage in recipe.shared_stages())]
    if recipe.tasks is not None and parent.stage not in shared:
        raise ConfigError(
            f"--resume-from {parent.path}: a {parent.stage} checkpoint knows one task already, so {len(recipe.tasks)} "
            f"tasks cannot continue from it; give a checkpoint of {' or '.join(dict.fromkeys(shared))}, or continue "
            "with that task alone: --set task=NAME"
        )
    if options.from_stage:
        return stages[[stage.name for stage in stages].index(options.from_stage) :]
    done = STAGE_ORDER.index(parent.stage)
    left = [stage for stage in stages if STAGE_ORDER.index(stage.name) > done]
    if not left:
        raise ConfigError(
            f"--resume-from {parent.path}: it already is {parent.stage}, and the recipe has no stage after that; "
            "name the stage to run with --from"
        )
    return left
