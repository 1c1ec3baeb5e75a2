"""Several tasks in one run: what they share is run once, then each task as a Prefect task of its own.

Each task is the ordinary work of an ordinary recipe (`Recipe.for_task`), so its stages have the digests that they have
in a run with that task alone, and either run reuses the other's through the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import httpx
from prefect.exceptions import PrefectHTTPStatusError

from pipeline.execution.mlflow_notes import log_picture, show_tasks
from pipeline.execution.one_task import RunPlan, run_plan, run_stages
from pipeline.execution.prefect_tasks import prefect_task, run_task
from pipeline.execution.run_context import RunContext
from pipeline.execution.run_report import show_in_prefect
from pipeline.execution.stage_runner import StageRunner
from pipeline.reporting.result_table import as_markdown, as_records
from pipeline.reporting.score_figures import task_comparison
from pipeline.reporting.tasks_table import averages_of, summary, tasks_table
from pipeline.store.files import disk_errors
from pipeline.tracking.parameters import recipe_params
from pipeline.tracking.session import TrackedRun
from pipeline.tracking.views import RUN_TAG
from schemas.core.errors import DistillError, Interrupted
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import RunReport
from schemas.results.report import TasksReport

log = logging.getLogger(__name__)


class TasksFailed(DistillError):
    """Raised when some of several tasks failed; the others were finished.

    Args:
        problems: one line per task.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def run_tasks(
    recipe: Recipe, name: str, plans: Mapping[str, RunPlan], context: RunContext, run: TrackedRun, *, began: float
) -> TasksReport:
    """Run what the tasks share, then each of them, then report on all.

    Args:
        recipe: with its several tasks.
        name: name of the report.
        plans: one per task.
        context: the parts that all stages of the flow run use.
        run: the MLflow run above those of the tasks.
        began: `time.monotonic()` when the run began.

    Raises:
        TasksFailed: some of the tasks failed; the others are finished and reported.
    """
    shared = StageRunner(recipe.without_tasks(), context, run)
    first = next(iter(plans.values()))
    run_stages(shared, [stage for stage in first.stages if stage in shared.recipe.stages], first.parent)
    outcomes = {task: _outcome(task, plan, context, run) for task, plan in plans.items()}
    _raise_what_ends_the_run(outcomes)
    tasks = {task: outcome for task, outcome in outcomes.items() if isinstance(outcome, RunReport)}
    failed = {task: _reason(outcome) for task, outcome in outcomes.items() if isinstance(outcome, BaseException)}
    report = TasksReport(
        run=name,
        recipe=recipe.name,
        shared=tuple(shared.judge.rows),
        tasks=tasks,
        failed=failed,
        averages={} if failed else averages_of(tasks),
        seconds=time.monotonic() - began,
        mlflow_run_id=run.run_id,
        mlflow_experiment_id=context.tracking.experiment_id,
        mlflow_view=True,
        store=str(context.store.root),
        resolved=recipe.model_dump(mode="json"),
    )
    _publish(report := context.store.write_report(report), run)
    if failed:
        context.progress.note(
            f"finished: {', '.join(tasks) or 'none'}; distill compare shows them, and the same command continues with "
            f"{', '.join(failed)}"
        )
        raise TasksFailed([f"task {task}: {reason}" for task, reason in failed.items()])
    return report


def _outcome(task: str, plan: RunPlan, context: RunContext, run: TrackedRun) -> RunReport | BaseException:
    """The report of one task, from its teacher on, or the error that ended it."""

    def distil() -> RunReport:
        if context.stop():
            raise Interrupted("not begun")
        began = time.monotonic()
        tags = {"distill.recipe": plan.recipe.name, "distill.task": task, RUN_TAG: plan.name}
        tracked = context.tracking.start_run(task, recipe_params(plan.recipe), tags, parent=run)
        with context.run_progress.of_task(task), disk_errors(context.store.root), tracked as task_run:
            return run_plan(plan, context, task_run, began=began, task=task)

    try:
        return run_task(prefect_task(distil, "task", task, tag="task"))[0]
    except Exception as error:  # the task's, or Prefect's own
        return error


def _raise_what_ends_the_run(outcomes: Mapping[str, RunReport | BaseException]) -> None:
    """Raise what is not the failure of one task: a stop, or the loss of Prefect's server."""
    errors = {task: outcome for task, outcome in outcomes.items() if isinstance(outcome, BaseException)}
    for error in errors.values():
        if isinstance(error, httpx.TransportError | PrefectHTTPStatusError):
            raise error
    stopped = {task: error for task, error in errors.items() if isinstance(error, Interrupted)}
    if stopped:
        raise Interrupted("; ".join(f"{task}: {error}" for task, error in stopped.items()))


def _reason(error: BaseException) -> str:
    """The message of a failed task; an unexpected exception is logged with its traceback."""
    if isinstance(error, DistillError):
        return str(error)
    log.error("a task failed unexpectedly", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _publish(report: TasksReport, run: TrackedRun) -> None:
    show_tasks(report, run)
    run.log_file(as_markdown(tasks_table(report), summary(report)), "report.md")
    run.log_file(report.model_dump_json(indent=2), "report.json")
    picture = task_comparison(report)
    log_picture(run, picture, "tasks.png")
    averages = {
        f"result/{name}/{model}": value for name, models in report.averages.items() for model, value in models.items()
    }
    if averages:
        run.log(0, averages)
    show_in_prefect(report.recipe, "tasks", as_records(tasks_table(report)), summary(report), picture)
