"""Several tasks in one run: what they share is done once, the rest for each of them, a Prefect task each.

Each task is the ordinary work of an ordinary recipe (`Recipe.for_task`), so its stages have the digests that they have
in a run with that task alone, and the store is what lets either reuse the other's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError

from pipeline.execution.one_task import Hands, Work, distil, run_stages, show_in_prefect
from pipeline.execution.prefect_tasks import cancelled_when_interrupted
from pipeline.execution.stage_runner import Runner
from pipeline.process.settings import read_settings
from pipeline.reporting.result_table import as_markdown, as_records
from pipeline.reporting.score_figures import task_comparison
from pipeline.reporting.tasks_table import averages_of, summary, tasks_table
from pipeline.store.checkpoints import CheckpointStore, open_store
from pipeline.store.files import disk_errors
from pipeline.tracking.session import TrackedRun
from schemas.core.errors import DistillError, Interrupted
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import RunReport
from schemas.results.report import TasksReport

log = logging.getLogger(__name__)

Outcome = RunReport | BaseException


class TasksFailed(DistillError):
    """Some of several tasks failed; the others were finished.

    Args:
        problems: a line for each.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def distil_tasks(
    recipe: Recipe, name: str, works: Mapping[str, Work], shared: Runner, hands: Hands, began: float
) -> TasksReport:
    """What the tasks share, then each of them, then the table that compares them.

    Args:
        recipe: with its several tasks.
        name: what the report is called.
        works: what is to be done for each task.
        shared: runs what they share.
        hands: of this process.
        began: `time.monotonic()` when the run began.

    Raises:
        Interrupted: somebody asked to stop.
        TasksFailed: some of the tasks failed; the others are finished and reported.
    """
    work = next(iter(works.values()))
    general = [stage for stage in work.stages if stage in shared.recipe.stages]
    run_stages(shared.recipe, general, work.parent, shared)
    hands.progress.close()
    outcomes = fan_out(works, shared.parent_run, shared.store, hands)
    _raise_what_ends_the_run(outcomes)
    return _conclude(recipe, name, outcomes, shared, time.monotonic() - began)


def fan_out(works: Mapping[str, Work], run: TrackedRun, store: CheckpointStore, hands: Hands) -> dict[str, Outcome]:
    """Every task's report, or what it ended with.

    Args:
        works: what is to be done for each task.
        run: the MLflow run that theirs stand under.
        store: where everything is kept.
        hands: of this process.
    """
    same = {"run": run, "store": str(store.root), "hands": hands}
    return {name: _outcome(distil_task(name, work, **same, return_state=True)) for name, work in works.items()}


def _outcome(state: State[Any]) -> Outcome:
    try:
        outcome: Outcome = state.result(raise_on_failure=False)
    except Exception as error:  # of Prefect itself
        return error
    return outcome


@task(name="task", task_run_name="{name}", cache_policy=NO_CACHE, tags=["task"])
@cancelled_when_interrupted
def distil_task(name: str, work: Work, run: TrackedRun, store: str, hands: Hands) -> RunReport:
    """One of several tasks, from its teacher to its report.

    Args:
        name: the task's.
        work: what is to be done.
        run: the MLflow run that its own stands under.
        store: folder of checkpoints and reports.
        hands: of this process.
    """
    if hands.stop():
        raise Interrupted("not begun")
    began = time.monotonic()
    settings = read_settings(store)
    opened = open_store(settings.store)
    tags = {"distill.recipe": work.recipe.name, "distill.task": name}
    params = work.recipe.model_dump(mode="json")
    with disk_errors(opened.root), hands.tracking.start_run(name, params, tags, parent=run) as tracked:
        runner = hands.runner(work.recipe, opened, tracked, name)
        return distil(work, runner, settings, began)


def _raise_what_ends_the_run(outcomes: Mapping[str, Outcome]) -> None:
    """What is no one task's own failure: a stop, or Prefect's server gone."""
    errors = {name: end for name, end in outcomes.items() if isinstance(end, BaseException)}
    for error in errors.values():
        if isinstance(error, httpx.TransportError | PrefectHTTPStatusError):
            raise error
    stopped = {name: end for name, end in errors.items() if isinstance(end, Interrupted)}
    if stopped:
        raise Interrupted("; ".join(f"{name}: {error}" for name, error in stopped.items()))


def _conclude(
    recipe: Recipe, name: str, outcomes: Mapping[str, Outcome], shared: Runner, seconds: float
) -> TasksReport:
    """Report what was finished, and fail where something was not."""
    tasks = {task: end for task, end in outcomes.items() if isinstance(end, RunReport)}
    failed = {task: _said(end) for task, end in outcomes.items() if isinstance(end, BaseException)}
    report = TasksReport(
        run=name,
        recipe=recipe.name,
        shared=tuple(shared.rows),
        tasks=tasks,
        failed=failed,
        averages={} if failed else averages_of(tasks),
        seconds=seconds,
        mlflow_run_id=shared.parent_run.run_id,
        mlflow_experiment_id=shared.tracking.experiment_id,
        store=str(shared.store.root),
        resolved=recipe.model_dump(mode="json"),
    )
    report = shared.store.write_report(report)
    publish(report, shared.parent_run)
    if failed:
        shared.progress.note(
            f"finished: {', '.join(tasks) or 'none'}; distill compare shows them, and the same command goes on with "
            f"{', '.join(failed)}"
        )
        raise TasksFailed([f"task {task}: {reason}" for task, reason in failed.items()])
    return report


def publish(report: TasksReport, parent_run: TrackedRun) -> None:
    """Put the comparison where people look: MLflow's parent run and Prefect's artifacts."""
    parent_run.log_file(as_markdown(tasks_table(report), summary(report)), "report.md")
    parent_run.log_file(report.model_dump_json(indent=2), "report.json")
    parent_run.log_file(task_comparison(report), "tasks.png")
    averages = {
        f"result/{name}/{model}": value for name, models in report.averages.items() for model, value in models.items()
    }
    if averages:
        parent_run.log(0, averages)
    show_in_prefect(report.recipe, "tasks", as_records(tasks_table(report)), summary(report))


def _said(error: BaseException) -> str:
    """What a failed task says; of what nobody foresaw, its traceback goes to the log."""
    if isinstance(error, DistillError):
        return str(error)
    log.error("a task failed unexpectedly", exc_info=error)
    return f"{type(error).__name__}: {error}"
