"""Several tasks or seeds in one run: what tasks share is run once, then each task and seed as a Prefect task.

Each of them is the ordinary work of an ordinary recipe (`Recipe.for_variant`), so its stages have the digests that they
have in a run with that task and seed alone, and either run reuses the other's through the store. Seeds share their
teacher, which the first of them makes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import httpx
from prefect.exceptions import PrefectHTTPStatusError

from pipeline.execution.apart import Apart
from pipeline.execution.mlflow_notes import log_picture, show_group
from pipeline.execution.one_task import RunPlan, run_plan, run_stages
from pipeline.execution.prefect_tasks import prefect_task, run_task
from pipeline.execution.run_context import RunContext
from pipeline.execution.run_report import show_in_prefect
from pipeline.execution.stage_runner import StageRunner
from pipeline.reporting.result_table import as_markdown, as_records
from pipeline.reporting.score_figures import task_comparison
from pipeline.reporting.spread_table import group_table, mean_scores
from pipeline.reporting.tasks_table import averages_of, summary
from pipeline.store.files import disk_errors
from pipeline.tracking.parameters import recipe_params
from pipeline.tracking.session import TrackedRun
from pipeline.tracking.views import RUN_TAG
from schemas.core.errors import DistillError, Interrupted
from schemas.recipe.expand import teacher_configs
from schemas.recipe.recipe import Recipe, Variant
from schemas.recipe.stage import Stage
from schemas.results.manifest import CheckpointRef, Row, RunReport
from schemas.results.report import GroupReport, RunsFailed

log = logging.getLogger(__name__)
Outcomes = Mapping[Variant, RunReport | BaseException]


def run_variants(name: str, plans: Sequence[RunPlan], apart: Apart, *, began: float) -> GroupReport:
    """Run what tasks share, then each task with each seed, then report on all.

    Args:
        name: name of the report.
        plans: one per task and seed.
        apart: the run, and what runs the plans in processes of their own if the recipe says so.
        began: `time.monotonic()` when the run began.

    Raises:
        RunsFailed: some of them failed; the others are finished and reported.
    """
    recipe, context, run = apart.recipe, apart.context, apart.run
    outcomes: Outcomes
    if recipe.execution.engine.is_apart:
        rows, outcomes = apart.outcomes(plans)
    else:
        rows, broken = _run_shared(recipe, plans[0], context, run)
        outcomes = {plan.variant: broken.get(plan.variant.seed) or _outcome(plan, context, run) for plan in plans}
    _raise_what_ends_all(outcomes)
    tasks = {str(variant.name): outcome for variant, outcome in outcomes.items() if isinstance(outcome, RunReport)}
    failed = {
        str(variant.name): reason_of(outcome)
        for variant, outcome in outcomes.items()
        if isinstance(outcome, BaseException)
    }
    report = GroupReport(
        run=name,
        recipe=recipe.name,
        shared=rows,
        tasks=tasks,
        failed=failed,
        averages={} if failed or recipe.seeds else averages_of(tasks),
        seconds=time.monotonic() - began,
        mlflow_run_id=run.run_id,
        mlflow_experiment_id=context.tracking.experiment_id,
        mlflow_view=True,
        store=str(context.store.root),
        resolved=recipe.model_dump(mode="json"),
    )
    _publish(report := context.store.write_report(report), run)
    if failed:
        raise _failure(report, "run" if recipe.seeds else "task", context)
    return report


def _failure(report: GroupReport, kind: str, context: RunContext) -> RunsFailed:
    """Say what is finished and what the same command continues with; return the error that ends the run."""
    context.progress.note(
        f"finished: {', '.join(report.tasks) or 'none'}; distill compare shows them, and the same command continues "
        f"with {', '.join(report.failed)}"
    )
    return RunsFailed([f"{kind} {label}: {reason}" for label, reason in report.failed.items()], report)


def _run_shared(
    recipe: Recipe, plan: RunPlan, context: RunContext, run: TrackedRun
) -> tuple[tuple[Row, ...], dict[int | None, Exception]]:
    """Run the stages that all tasks share, for each seed; return their rows, and the errors of seeds that failed."""
    rows: list[Row] = []
    broken: dict[int | None, Exception] = {}
    for shared in recipe.shared_variants():
        try:
            rows += run_shared(recipe, shared, plan.stages, plan.parent, context, run)
        except Exception as error:
            if not recipe.seeds or isinstance(error, Interrupted):
                raise
            broken[shared.seed] = error
    return tuple(rows), broken


def run_shared(
    recipe: Recipe,
    variant: Variant,
    stages: Sequence[Stage],
    parent: CheckpointRef | None,
    context: RunContext,
    run: TrackedRun,
) -> tuple[Row, ...]:
    """Make what several tasks share, and return its rows; or, for one task, the teachers that several seeds share.

    Args:
        recipe: with its several tasks or seeds.
        variant: without a task, or one of those that share their teachers.
        stages: those to run, of any seed.
        parent: the checkpoint that the first continues.
        context: the parts that all stages of the flow run use.
        run: the MLflow run to show it under.
    """
    single = recipe.for_variant(variant)
    if single.tasks is None:
        runner = StageRunner(single, context, run, variant)
        for config in teacher_configs(single):
            runner.run_in_prefect(config, None)
        return ()
    names = {stage.name for stage in stages}
    runner = StageRunner(single.without_tasks(), context, run, variant)
    run_stages(runner, [stage for stage in runner.recipe.stages if stage.name in names], parent)
    return tuple(runner.judge.rows)


def _outcome(plan: RunPlan, context: RunContext, run: TrackedRun) -> RunReport | BaseException:
    """The report of one task and seed, from its teacher on, or the error that ended it."""
    variant, name = plan.variant, str(plan.variant.name)

    def distil() -> RunReport:
        if context.stop():
            raise Interrupted("not begun")
        began = time.monotonic()
        tags = {"distill.recipe": plan.recipe.name, RUN_TAG: plan.name}
        tags |= {"distill.task": variant.task} if variant.task else {}
        tags |= {"distill.seed": str(variant.seed)} if variant.seed is not None else {}
        tracked = context.tracking.start_run(name, recipe_params(plan.recipe), tags, parent=run)
        with context.run_progress.of_task(name), disk_errors(context.store.root), tracked as variant_run:
            return run_plan(plan, context, variant_run, began=began)

    try:
        return run_task(prefect_task(distil, "task" if variant.task else "seed", name, tag="task"))[0]
    except Exception as error:  # the task's, or Prefect's own
        return error


def ends_all(error: BaseException) -> bool:
    """Return whether an error is not the failure of one run: a stop, or the loss of Prefect's server."""
    return isinstance(error, Interrupted | httpx.TransportError | PrefectHTTPStatusError)


def _raise_what_ends_all(outcomes: Outcomes) -> None:
    errors = {
        variant.name: outcome
        for variant, outcome in outcomes.items()
        if isinstance(outcome, BaseException) and ends_all(outcome)
    }
    for error in errors.values():
        if not isinstance(error, Interrupted):
            raise error
    if errors:
        raise Interrupted("; ".join(f"{name}: {error}" for name, error in errors.items()))


def reason_of(error: BaseException) -> str:
    """The message of a failed run; an unexpected exception is logged with its traceback."""
    if isinstance(error, DistillError):
        return str(error)
    log.error("a run failed unexpectedly", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _publish(report: GroupReport, run: TrackedRun) -> None:
    table, lines = group_table(report), summary(report)
    show_group(report, run)
    run.log_file(as_markdown(table, lines), "report.md")
    run.log_file(report.model_dump_json(indent=2), "report.json")
    picture = task_comparison(report)
    log_picture(run, picture, "tasks.png")
    scores = {
        f"result/{name}/{model}": value for name, models in report.averages.items() for model, value in models.items()
    }
    scores |= {f"result/{model}": value for model, value in mean_scores(report).items()}
    if scores:
        run.log(0, scores)
    show_in_prefect(report.recipe, "tasks", as_records(table), lines, picture)
