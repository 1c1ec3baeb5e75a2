"""Several tasks in one run: what they share is done once, the rest for each of them, as mapped Prefect tasks.

Each task is the ordinary work of an ordinary recipe (`Recipe.for_task`), so its stages have the digests that they have
in a run with that task alone, and the store is what lets either reuse the other's. One task at a time is trained in
this process. More at once are trained in a process each: a step's dropout is drawn from the process's one generator,
which two trainings in threads would take from each other.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import httpx
import torch
from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.futures import PrefectConcurrentFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from rich.console import Console

from pipeline.checkpoints import CheckpointStore, open_store
from pipeline.comparison import as_markdown, as_records, averages_of, summary
from pipeline.files import disk_errors
from pipeline.logs import log_to_stderr, quiet_prefect
from pipeline.parts import (
    Hands,
    Work,
    distil,
    open_tracking,
    run_stages,
    show_in_prefect,
    stop_signals,
)
from pipeline.progress import LineProgress
from pipeline.runner import Runner
from pipeline.settings import Settings, read_settings
from pipeline.tracking_run import TrackedRun
from pipeline.tracking_server import PARENT_TAG
from schemas.comparison import TasksReport
from schemas.errors import DistillError, Interrupted
from schemas.recipe import Recipe
from schemas.results import RunReport

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
Future = PrefectConcurrentFuture[RunReport]
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
    recipe: Recipe,
    name: str,
    works: Mapping[str, Work],
    shared: Runner,
    hands: Hands,
    began: float,
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
    outcomes = fan_out(
        works, shared.parent_run.key, shared.store, hands, recipe.execution.tasks_at_once
    )
    lost = {name: works[name] for name, o in outcomes.items() if isinstance(o, BrokenProcessPool)}
    if lost and not hands.stop_requested():
        hands.progress.note(
            "a process was ended from outside, as happens where memory runs out; one at a time from here on: "
            f"{', '.join(lost)}"
        )
        outcomes |= fan_out(lost, shared.parent_run.key, shared.store, hands, 1)
    _raise_what_ends_the_run(outcomes)
    return _conclude(recipe, name, outcomes, shared, time.monotonic() - began)


def fan_out(
    works: Mapping[str, Work], run: str, store: CheckpointStore, hands: Hands, at_once: int
) -> dict[str, Outcome]:
    """Every task's report, or what it ended with.

    Args:
        works: what is to be done for each task.
        run: key of the MLflow run that theirs stand under.
        store: where everything is kept.
        hands: of this process.
        at_once: how many are trained at the same time.
    """
    runner: TaskRunner[Future] = (
        ThreadPoolTaskRunner(max_workers=1)
        if at_once == 1
        else ProcessPoolTaskRunner(max_workers=at_once, initializer=_begin_process)
    )
    with _server_for_all(), runner:
        given = {"name": list(works), "work": list(works.values())}
        same = {"run": run, "store": str(store.root), "at_once": at_once}
        same["hands"] = hands if at_once == 1 else None
        mapped = {**given, **{key: unmapped(value) for key, value in same.items()}}
        futures = cast(list[Future], list(runner.map(cast(Any, distil_task), mapped)))
        _wait(futures, hands.stop_requested)
        return {name: _outcome(future) for name, future in zip(works, futures, strict=True)}


@task(name="task", task_run_name="{name}", cache_policy=NO_CACHE, tags=["task"])
def distil_task(
    name: str, work: Work, run: str, store: str, at_once: int, hands: Hands | None
) -> RunReport:
    """One of several tasks, from its teacher to its report.

    Args:
        name: the task's.
        work: what is to be done.
        run: key of the MLflow run that its own stands under.
        store: folder of checkpoints and reports.
        at_once: how many tasks share this machine.
        hands: those of the process, where the task has none of its own.
    """
    began = time.monotonic()
    settings = read_settings(store)
    opened = open_store(settings.store)
    with (
        disk_errors(opened.root),
        nullcontext(hands) if hands else _own_hands(settings, opened, at_once) as own,
    ):
        if own.stop_requested():
            raise Interrupted("not begun")
        with _tracked(own, run, name, work.recipe) as tracked:
            runner = own.runner(work.recipe, opened, tracked, name)
            return distil(work, runner, settings, began)


@contextmanager
def _tracked(hands: Hands, parent: str, name: str, recipe: Recipe) -> Iterator[TrackedRun]:
    """An MLflow run of the task, under that of all, above those of its stages."""
    run = hands.tracking.child_run(
        None,
        name,
        recipe.model_dump(mode="json"),
        {PARENT_TAG: parent, "distill.recipe": recipe.name, "distill.task": name},
    )
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        run.finish(status)


@contextmanager
def _server_for_all() -> Iterator[None]:
    """Names the server that Prefect has started for this run, or every process would start one for itself."""
    context = FlowRunContext.get()
    assert context is not None, "tasks are mapped inside a flow run"
    with temporary_settings({PREFECT_API_URL: str(context.client.api_url)}):
        yield


def _begin_process() -> None:
    """A process for tasks: Ctrl-C goes to all of them, but what it means is for the first to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_to_stderr()
    quiet_prefect()


@contextmanager
def _own_hands(settings: Settings, store: CheckpointStore, at_once: int) -> Iterator[Hands]:
    """Hands for a task in a process of its own, which gets its share of the processor."""
    torch.set_num_threads(max(1, torch.get_num_threads() // at_once))
    parent = os.getppid()
    tracking = open_tracking(settings, store)
    try:
        with stop_signals() as stop:
            # Where the first process is gone, nobody waits for the result or could stop this one.
            yield Hands(
                tracking,
                LineProgress(Console(stderr=True)),
                lambda: stop.is_set() or os.getppid() != parent,
            )
    finally:
        tracking.close()


def _wait(futures: list[Future], stop_requested: Callable[[], bool]) -> None:
    """Wait for all; who asks this process to stop asks those of its tasks."""
    told = False
    for future in futures:
        while not _has_ended(future):
            if stop_requested() and not told:
                told = True
                for process in multiprocessing.active_children():
                    process.terminate()


def _has_ended(future: Future) -> bool:
    try:
        future.wrapped_future.exception(timeout=_LOOK_SECONDS)
    except TimeoutError:
        return False
    except CancelledError:
        return True
    return True


def _outcome(future: Future) -> Outcome:
    try:
        outcome: Any = future.result(raise_on_failure=False)
    except (Exception, CancelledError) as error:
        return error
    assert isinstance(outcome, RunReport | BaseException), outcome
    return outcome


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
    parent_run.log_text(as_markdown(report), "report.md")
    parent_run.log_text(report.model_dump_json(indent=2), "report.json")
    averages = {
        f"result/{name}/{model}": value
        for name, models in report.averages.items()
        for model, value in models.items()
    }
    if averages:
        parent_run.log(0, averages)
    show_in_prefect(report.recipe, "tasks", as_records(report), summary(report))


def _said(error: BaseException) -> str:
    """What a failed task says; of what nobody foresaw, its traceback goes to the log."""
    if isinstance(error, DistillError):
        return str(error)
    log.error("a task failed unexpectedly", exc_info=error)
    return f"{type(error).__name__}: {error}"
