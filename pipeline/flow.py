"""The flow: which stages, in what order, from where, and what is handed on. It holds no numbers.

A stage that is there already is reused, by any recipe, task or run, so the flow can be started again at any time.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from rich.console import Console

from pipeline.assistants import with_assistant
from pipeline.changes import what_is_different
from pipeline.checkpoints import CheckpointStore, open_checkpoint, open_store
from pipeline.curves import stage_comparison
from pipeline.files import disk_errors
from pipeline.library import read_recipe
from pipeline.options import RunOptions, chosen_stages
from pipeline.outline import check_earlier_stages, needs_made_teachers, outline
from pipeline.progress import make_progress
from pipeline.report import as_markdown, as_records, student_row, summary, teacher_row
from pipeline.runner import Runner, guessable
from pipeline.settings import Settings, read_settings
from pipeline.tracking import Tracking
from pipeline.tracking_model import resolve_run
from pipeline.tracking_run import TrackedRun
from schemas.data import describe_task
from schemas.errors import ConfigError, DistillError
from schemas.recipe import Recipe
from schemas.refs import StudentOf
from schemas.results import CheckpointRef, RunReport, Size
from schemas.stage import STAGE_ORDER, Stage
from schemas.teacher import FineTune
from stages import latency
from stages.encoders import load_config, load_encoder, locate
from stages.judge import chance, num_judged
from stages.preflight import Facts, preflight
from stages.student import encoder_flops
from stages.tasks import STAGE_TASKS, TEACHER_TASKS, hard_label_baseline

log = logging.getLogger(__name__)


class _WithoutTraceback(logging.Filter):
    """Our own errors say what is wrong; a traceback behind them in Prefect's log would only hide it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], DistillError):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())


@flow(name="distill-flow", validate_parameters=True, persist_result=False, log_prints=False)
def distill_flow(
    recipe: str = "quickstart",
    task: str | None = None,
    overrides: list[str] | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008  (frozen)
) -> RunReport:
    """Distil a student as a recipe says.

    Args:
        recipe: a shipped recipe's name, or the path of a YAML file.
        task: shorthand for a first override `task=...`, such as sst2 or docstrings.
        overrides: changes to the recipe, such as `student.shape.num_layers=3`.
        options: which stages, from where, kept where.
    """
    changes = [*([f"task={task}"] if task else []), *(overrides or [])]
    return execute(read_recipe(recipe, changes), options)


def execute(recipe: Recipe, options: RunOptions) -> RunReport:
    """Run a recipe inside a flow run; the report is also kept in the store, in MLflow and in Prefect."""
    began = time.monotonic()
    settings = read_settings(options.store)
    store = open_store(settings.store)
    stages = chosen_stages(recipe, options.from_stage, options.until_stage)
    if options.from_stage is not None and options.resume_from is None:
        check_earlier_stages(recipe, stages, options.from_stage, store)
    recipe = with_assistant(recipe, lambda other: finish(other, options))
    progress = make_progress(Console(stderr=True))
    name = f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        progress.note(f"{recipe.name}: looking at models and data")
        with disk_errors(store.cache):
            facts = preflight(recipe, store.cache)
        parent = resumed(options, store, settings)
        if parent is not None:
            stages = stages_after(parent, stages, options)
        for stage in outline(recipe, stages, store, parent.digest if parent else None):
            if (reason := what_is_different(stage, store)) is not None:
                progress.note(f"{stage.config.name}: to run, {reason}")
        with (
            disk_errors(store.root),
            tracked(settings, store, recipe, name) as (tracking, parent_run),
            stop_signals() as stop,
        ):
            runner = Runner(recipe, store, tracking, parent_run, progress, stop.is_set)
            run_stages(recipe, stages, parent, runner)
            if not options.until_stage:
                run_baselines(recipe, runner)
            report = make_report(recipe, name, runner, facts, settings, time.monotonic() - began)
            report = store.write_report(report)
            publish(report, parent_run)
    finally:
        progress.close()
    return report


def finish(other: StudentOf, options: RunOptions) -> CheckpointRef:
    """The student of another recipe, whose flow runs inside this one."""
    report = distill_flow(
        recipe=other.recipe,
        overrides=list(other.overrides),
        options=RunOptions(store=options.store),
    )
    checkpoint = [row.checkpoint for row in report.rows if row.kind == "stage"][-1]
    assert checkpoint is not None
    return checkpoint


def resumed(
    options: RunOptions, store: CheckpointStore, settings: Settings
) -> CheckpointRef | None:
    """The checkpoint of `--resume-from`, verified file by file."""
    source = options.resume_from
    if source is None:
        return None
    if source.startswith("mlflow:"):
        folder: str | Path = resolve_run(
            source.removeprefix("mlflow:"), uri=settings.tracking_uri, into=store.root / "downloads"
        )
    else:
        folder = source
    checkpoint, _ = open_checkpoint(folder)
    return checkpoint


def stages_after(parent: CheckpointRef, stages: list[Stage], options: RunOptions) -> list[Stage]:
    """What is left to do after a given checkpoint.

    Raises:
        ConfigError: the checkpoint is no student's, or nothing is left.
    """
    if parent.stage not in STAGE_ORDER:
        raise ConfigError(
            f"--resume-from {parent.path}: it is a {parent.stage} checkpoint, not a student's"
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


def run_stages(
    recipe: Recipe, stages: list[Stage], parent: CheckpointRef | None, runner: Runner
) -> None:
    """The teachers first, where they have to be made; then each stage on the checkpoint of the one before."""
    made = needs_made_teachers(stages)
    if recipe.task is not None and not (made and isinstance(recipe.teacher.task_model, FineTune)):
        runner.judge_given_teacher()
    for teacher in recipe.teacher_configs() if made else ():
        TEACHER_TASKS[teacher.name](teacher, None, runner)
    if recipe.task is not None:
        runner.check_teacher()
    for stage in stages:
        config = recipe.stage_config(stage, runner.teachers)
        parent = STAGE_TASKS[stage.name](config, parent, runner).checkpoint


def run_baselines(recipe: Recipe, runner: Runner) -> None:
    """What the student is compared with."""
    tokens = sum(row.tokens or 0 for row in runner.rows if row.kind == "stage")
    if "hard_labels" in recipe.baselines:
        hard_label_baseline(recipe.hard_label_baseline(tokens=tokens), None, runner)
    if "bag_of_words" in recipe.baselines:
        bag_of_words(runner)


@task(name="bag_of_words", task_run_name="bag_of_words", cache_policy=NO_CACHE, tags=["baseline"])
def bag_of_words(runner: Runner) -> None:
    """A bag-of-words classifier on the same rows."""
    runner.add_bag_of_words()


def make_report(
    recipe: Recipe, name: str, runner: Runner, facts: Facts, settings: Settings, seconds: float
) -> RunReport:
    """Everything the closing table says."""
    report = RunReport(
        run=name,
        recipe=recipe.name,
        task=describe_task(recipe.task) if recipe.task else None,
        metric=recipe.task.main_metric if recipe.task else None,
        rows=tuple(runner.rows),
        size=measure_size(recipe, runner, facts),
        validation_rows=num_judged(runner.yardstick),
        majority=chance(runner.yardstick),
        seconds=seconds,
        mlflow_run_id=runner.parent_run.run_id,
        mlflow_experiment_id=runner.tracking.experiment_id,
        store=str(settings.store),
        resolved=recipe.model_dump(mode="json"),
    )
    student, teacher = student_row(report), teacher_row(report)
    if not student or not teacher:
        return report
    mine, theirs = student.judgement, teacher.judgement
    shares: dict[str, float] = {}
    if mine.task_metric is not None and theirs.task_metric:
        shares["retained"] = mine.task_metric / theirs.task_metric
    chance_level = report.majority
    own, other = guessable(mine), guessable(theirs)
    if own is not None and other is not None and chance_level is not None:
        above = other - chance_level
        if above:  # a teacher that is let through at chance has nothing above it to retain
            shares["retained_above_chance"] = (own - chance_level) / above
    return report.model_copy(update=shares)


def measure_size(recipe: Recipe, runner: Runner, facts: Facts) -> Size | None:
    """Parameters, operations and measured speed of student and teacher."""
    stages = [row for row in runner.rows if row.kind == "stage" and row.checkpoint]
    if not stages or stages[-1].checkpoint is None:
        return None
    folder = locate(recipe.pretrained)
    speed = latency.speed_up(
        load_encoder(Path(stages[-1].checkpoint.path) / "model"),
        load_encoder(folder, load_config(folder)),
    )
    return Size(
        student_parameters=facts.student_parameters,
        teacher_parameters=facts.teacher_parameters,
        student_flops=encoder_flops(facts.student),
        teacher_flops=encoder_flops(facts.teacher),
        speed_up=speed.median,
        speed_up_low=speed.low,
        speed_up_high=speed.high,
        speed_up_sequences=latency.SEQUENCES,
        speed_up_length=latency.LENGTH,
    )


@contextmanager
def tracked(
    settings: Settings, store: CheckpointStore, recipe: Recipe, name: str
) -> Iterator[tuple[Tracking, TrackedRun]]:
    """An MLflow parent run around the block; it never raises anything of its own."""
    tracking = Tracking.open(
        settings.tracking_uri,
        settings.experiment,
        store.root / "points",
        artifacts=settings.artifacts,
    )
    parent = tracking.parent_run(
        name,
        params=recipe.model_dump(mode="json"),
        tags={"distill.recipe": recipe.name, "distill.flow_run": str(runtime.flow_run.name or "")},
    )
    status = "FAILED"
    try:
        yield tracking, parent
        status = "FINISHED"
    finally:
        parent.finish(status)
        if status == "FINISHED":
            tracking.send_kept()
        tracking.close()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turns SIGTERM and Ctrl-C into a wish that the loop grants after its current step; a second one kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def publish(report: RunReport, parent_run: TrackedRun) -> None:
    """Put the report where people look: MLflow's parent run and Prefect's artifacts."""
    parent_run.log_text(as_markdown(report), "report.md")
    parent_run.log_text(report.model_dump_json(indent=2), "report.json")
    parent_run.log_picture(stage_comparison(report), "stages.png")
    scores = {"retained": report.retained, "retained_above_chance": report.retained_above_chance}
    parent_run.log(
        0, {f"result/{key}": value for key, value in scores.items() if value is not None}
    )
    try:
        key = report.recipe.replace("_", "-")
        create_table_artifact(
            key=f"{key}-stages", table=as_records(report), description="The run's stages"
        )
        create_markdown_artifact(
            key=f"{key}-result", markdown="\n".join(f"- {line}" for line in summary(report))
        )
    except DistillError:
        raise
    except Exception as error:  # an artifact is a picture of the run, not the run
        log.warning(
            "Prefect did not take the results table (%s); it is in the store and in MLflow", error
        )
