"""The parts of a run, put together by `flow` for one task and by `fan_out` for several."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

from prefect import Task, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from pipeline.execution.prefect_tasks import STAGE_TASKS, TEACHER_TASKS, cancelled_when_interrupted, hard_label_baseline
from pipeline.execution.progress import LineProgress, TaskProgress, TerminalProgress
from pipeline.execution.stage_runner import Runner
from pipeline.planning.options import RunOptions
from pipeline.planning.outline import needs_made_teachers
from pipeline.process.settings import Settings
from pipeline.process.stopping import Stop, interrupted
from pipeline.reporting.result_table import as_markdown, as_records
from pipeline.reporting.run_table import rows_of, run_table, score_tags, student_row, summary, teacher_row
from pipeline.reporting.score_figures import stage_comparison
from pipeline.store.checkpoints import MANIFEST, CheckpointStore, open_checkpoint
from pipeline.store.open_runs import OpenRun
from pipeline.tracking.artifacts import resolve_run
from pipeline.tracking.session import TrackedRun, Tracking
from schemas.core.errors import ConfigError, DistillError
from schemas.data.tasks import describe_task
from schemas.recipe.expand import baseline_config, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import STAGE_ORDER, Stage
from schemas.recipe.teacher import FineTune
from schemas.results.manifest import CheckpointRef, RunReport, Size
from stages.evaluation import latency
from stages.judge import chance
from stages.models.encoders import load_config, load_encoder, locate
from stages.models.student import encoder_flops
from stages.preflight.checks import Facts

log = logging.getLogger(__name__)


def resumed(options: RunOptions, store: CheckpointStore, settings: Settings, open_run: OpenRun) -> CheckpointRef | None:
    """The checkpoint of `--resume-from`, verified file by file, and noted as needed."""
    source = options.resume_from
    if source is None:
        return None
    if source.startswith("mlflow:"):
        folder: str | Path = resolve_run(source.removeprefix("mlflow:"), uri=settings.tracking_uri, store=store)
    else:
        folder = source
    checkpoint, _ = open_checkpoint(folder)
    open_run.needs({checkpoint.digest})
    if not (Path(checkpoint.path) / MANIFEST).is_file():  # taken away before the note
        checkpoint, _ = open_checkpoint(folder)
    return checkpoint


def stages_after(parent: CheckpointRef, recipe: Recipe, stages: list[Stage], options: RunOptions) -> list[Stage]:
    """What is left to do of the chosen stages after a given checkpoint.

    Raises:
        ConfigError: the checkpoint is no student's, several tasks cannot go on from it, or nothing is left.
    """
    if parent.stage not in STAGE_ORDER:
        raise ConfigError(f"--resume-from {parent.path}: it is a {parent.stage} checkpoint, not a student's")
    shared = ["general", *(stage.name for stage in recipe.shared_stages())]
    if recipe.tasks is not None and parent.stage not in shared:
        raise ConfigError(
            f"--resume-from {parent.path}: a {parent.stage} checkpoint knows one task already, so {len(recipe.tasks)} "
            f"cannot go on from it; give a checkpoint of {' or '.join(dict.fromkeys(shared))}, or go on with that task "
            "alone: --set task=NAME"
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


@dataclass(frozen=True)
class Work:
    """What is to be done of a recipe with one task, or with none."""

    recipe: Recipe
    name: str
    """What its report is called."""
    facts: Facts
    """What the look at models and data found."""
    stages: list[Stage]
    """In order."""
    parent: CheckpointRef | None
    """What the first of them goes on from; None for a fresh start."""
    baselines: bool
    """Whether the student is compared with anything."""


@dataclass(frozen=True)
class Hands:
    """What a run writes its numbers to, shows itself with, is stopped by, and notes its needs in."""

    tracking: Tracking
    progress: TerminalProgress | LineProgress
    stop: Stop
    open_run: OpenRun

    def runner(self, recipe: Recipe, store: CheckpointStore, run: TrackedRun, task: str | None = None) -> Runner:
        """Runs stages into `run`; `task` where the recipe is that of one of several tasks."""
        shown = self.progress if task is None else TaskProgress(self.progress, task)
        return Runner(recipe, store, self.tracking, run, shown, self.stop, task, open_run=self.open_run)


def distil(work: Work, runner: Runner, settings: Settings, began: float) -> RunReport:
    """Stages, baselines and report; the report is also kept in the store, in MLflow and in Prefect.

    Args:
        work: what is done.
        runner: whose hands do it.
        settings: where things are.
        began: `time.monotonic()` when it began.
    """
    run_stages(work.recipe, work.stages, work.parent, runner)
    if work.baselines:
        run_baselines(work.recipe, runner)
    seconds = time.monotonic() - began
    report = make_report(work.recipe, work.name, runner, work.facts, settings, seconds)
    report = runner.store.write_report(report)
    key = f"{report.recipe}-{runner.task}" if runner.task else report.recipe
    publish(report, runner.parent_run, key=key)
    return report


def run_stages(recipe: Recipe, stages: list[Stage], parent: CheckpointRef | None, runner: Runner) -> None:
    """The teachers first, where they have to be made; then each stage on the checkpoint of the one before."""
    made = needs_made_teachers(stages)
    if recipe.task is not None and not (made and isinstance(recipe.teacher.task_model, FineTune)):
        runner.judge_given_teacher()
    for teacher in teacher_configs(recipe) if made else ():
        _called(TEACHER_TASKS[teacher.name], runner)(teacher, None, runner)
    if recipe.task is not None:
        runner.check_teacher()
    for stage in stages:
        config = stage_config(recipe, stage, runner.teachers)
        parent = _called(STAGE_TASKS[stage.name], runner)(config, parent, runner).checkpoint


P = ParamSpec("P")
R = TypeVar("R")


def _called(prefect_task: Task[P, R], runner: Runner) -> Callable[P, R]:
    """Runs the Prefect task, whose runs are named after one of several tasks where there are several."""
    named = prefect_task.with_options(task_run_name=runner.called(prefect_task.name))

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        answer: object = named(*args, **kwargs)
        if isinstance(answer, State):  # of a run that was cancelled: it raises `Interrupted`
            answer = answer.result()
        return cast(R, answer)

    return run


def run_baselines(recipe: Recipe, runner: Runner) -> None:
    """What the student is compared with."""
    tokens = sum(row.tokens or 0 for row in runner.rows if row.kind == "stage")
    if "hard_labels" in recipe.baselines:
        config = baseline_config(recipe, tokens=tokens)
        _called(hard_label_baseline, runner)(config, None, runner)
    if "bag_of_words" in recipe.baselines:
        _called(bag_of_words, runner)(runner)


@task(name="bag_of_words", task_run_name="bag_of_words", cache_policy=NO_CACHE, tags=["baseline"])
@cancelled_when_interrupted
def bag_of_words(runner: Runner) -> None:
    """A bag-of-words classifier on the same rows."""
    with interrupted("bag_of_words"):
        runner.add_bag_of_words()


def make_report(
    recipe: Recipe, name: str, runner: Runner, facts: Facts, settings: Settings, seconds: float
) -> RunReport:
    """Everything the closing table says."""
    guessed = chance(runner.yardstick)
    scorer = runner.yardstick.scorer
    judged = (None, None) if scorer is None else scorer.counted
    metric = recipe.task.main_metric if recipe.task else None
    report = RunReport(
        run=name,
        recipe=recipe.name,
        task=describe_task(recipe.task) if recipe.task else None,
        metric=metric,
        positive_label=scorer.rows.task.positive_label if scorer else None,
        data=facts.card,
        rows=tuple(runner.rows),
        teachers=runner.teacher_reports,
        size=measure_size(recipe, runner, facts),
        validation_rows=judged[0],
        validation_rows_of=judged[1],
        further_rows={name: each.counted for name, each in runner.yardstick.further.items()},
        majority=guessed.get(metric or ""),
        guessed=guessed,
        seconds=seconds,
        mlflow_run_id=runner.parent_run.run_id,
        mlflow_experiment_id=runner.tracking.experiment_id,
        store=str(settings.store),
        resolved=recipe.model_dump(mode="json"),
    )
    return report.model_copy(update=retained_of(report))


def retained_of(report: RunReport) -> dict[str, Any]:
    """What the student kept of its teacher's scores, and of what these have above guessing."""
    student, teacher = student_row(report), teacher_row(report)
    if not student or not teacher:
        return {}
    mine, theirs = student.judgement, teacher.judgement
    shares: dict[str, Any] = {}
    if mine.task_metric is not None and theirs.task_metric:
        shares["retained"] = mine.task_metric / theirs.task_metric
    gains = {
        metric: (mine.scores[metric].value - guess) / (theirs.scores[metric].value - guess)
        for metric, guess in report.guessed.items()
        if metric in mine.scores
        and metric in theirs.scores
        # A teacher that is let through at chance has nothing above it to retain.
        and theirs.scores[metric].value > guess
    }
    return shares | {"gains_retained": gains, "retained_above_chance": gains.get(report.metric or "")}


def measure_size(recipe: Recipe, runner: Runner, facts: Facts) -> Size | None:
    """Parameters, operations and measured speed of student and teacher."""
    stages = [row for row in runner.rows if row.kind == "stage" and row.checkpoint]
    if not stages or stages[-1].checkpoint is None:
        return None
    folder = locate(recipe.pretrained)
    speed = latency.speed_up(
        load_encoder(Path(stages[-1].checkpoint.path) / "model"), load_encoder(folder, load_config(folder))
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


def open_tracking(settings: Settings, store: CheckpointStore) -> Tracking:
    """MLflow as the settings say, or what keeps its news in the store."""
    return Tracking(settings.tracking_uri, settings.experiment, store.points, artifacts=settings.artifacts)


@contextmanager
def tracked(
    settings: Settings, store: CheckpointStore, recipe: Recipe, name: str
) -> Iterator[tuple[Tracking, TrackedRun]]:
    """An MLflow parent run around the block; it never raises anything of its own."""
    tracking = open_tracking(settings, store)
    parent = tracking.start_run(
        name,
        recipe.model_dump(mode="json"),
        {"distill.recipe": recipe.name, "distill.flow_run": str(runtime.flow_run.name or "")},
    )
    try:
        with parent:
            yield tracking, parent
        tracking.send_kept()
    finally:
        tracking.close()


def publish(report: RunReport, parent_run: TrackedRun, *, key: str) -> None:
    """Put the report where people look: MLflow's parent run and Prefect's artifacts, whose names begin with `key`."""
    parent_run.log_file(as_markdown(run_table(report), summary(report)), "report.md")
    parent_run.log_file(report.model_dump_json(indent=2), "report.json")
    parent_run.log_file(stage_comparison(report), "stages.png")
    scores = {
        "retained": report.retained,
        "retained_above_chance": report.retained_above_chance,
        "guessed": report.majority,
    }
    if report.validation_rows is not None:
        rows = rows_of(report.validation_rows, report.validation_rows_of)
        parent_run.set_tags(score_tags(report.positive_label, rows))
    parent_run.log(0, {f"result/{key}": value for key, value in scores.items() if value is not None})
    show_in_prefect(key, "stages", as_records(run_table(report)), summary(report))


def show_in_prefect(key: str, what: Literal["stages", "tasks"], table: list[dict[str, str]], lines: list[str]) -> None:
    """A table and the lines under it as artifacts of the flow run."""
    key = re.sub(r"[^a-z0-9]+", "-", key.lower())
    try:
        create_table_artifact(key=f"{key}-{what}", table=table, description=f"The run's {what}")
        create_markdown_artifact(key=f"{key}-result", markdown="\n".join(f"- {line}" for line in lines))
    except DistillError:
        raise
    except Exception as error:  # an artifact is a picture of the run, not the run
        log.warning("Prefect did not take the results table (%s); it is in the store and in MLflow", error)
