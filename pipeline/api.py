"""Recipes and stages from Python: a script or a notebook runs what `distill run` runs, and gets typed results.

Nothing here needs Prefect's server, and importing this module imports neither torch nor Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.launch import run_recipes as run_in_prefect
from pipeline.planning.options import RunOptions, check_options
from pipeline.planning.per_task import check_data, per_recipe
from pipeline.process.prefect_api import prepare_environment
from pipeline.process.settings import read_settings
from pipeline.recipes.shipped import read_recipe as read_shipped
from pipeline.recipes.shipped import read_recipes as read_shipped_recipes
from pipeline.reporting import run_table, tasks_table
from pipeline.reporting.result_table import ResultTable, as_markdown, as_records
from pipeline.reporting.spread_table import group_table
from schemas.core.base import Frozen
from schemas.core.errors import ConfigError, Interrupted
from schemas.core.wording import suggestion
from schemas.recipe.expand import finished_teacher, stage_config, task_teachers, teacher_candidates
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef, RunReport
from schemas.results.report import AnyReport
from schemas.results.score import Score
from stages.data.readers.first_reading import first_reading

Changes = Mapping[str, Any] | Sequence[str] | None
"""Changes of a recipe: values by their keys, or texts `KEY=VALUE` as `--set` takes them."""
_AGAIN = "state kept: the same call of run_recipe continues there"


class RunResult(Frozen):
    """Result of a run. A notebook shows its table; `print` shows the same as text."""

    run: str
    """Name of the run in its store."""
    store: Path
    """Folder of checkpoints, reports and MLflow's database."""
    student: Path | None = None
    """Folder of the finished student, for transformers; null for several runs."""
    teacher: Path | None = None
    """Folder of the teacher that this run fine-tuned or reused; null for a published one, and for several runs."""
    scores: dict[str, Score] = Field(default_factory=dict)
    """Scores of the student on the validation rows, with 95 % intervals."""
    teacher_scores: dict[str, Score] = Field(default_factory=dict)
    """Scores of the teacher on the same rows."""
    retained: float | None = None
    """Ratio of the student's main score to the teacher's."""
    table: tuple[dict[str, str], ...]
    """Rows of the closing table, as `pandas.DataFrame` takes them."""
    lines: tuple[str, ...]
    """Sentences below the table."""
    tasks: dict[str, RunResult] = Field(default_factory=dict)
    """Results of several runs by task, seed and recipe; empty for one run."""
    report: AnyReport
    """Everything that the run recorded."""

    def _repr_markdown_(self) -> str:
        return as_markdown(_table(self.report), self.lines)

    def __str__(self) -> str:
        """The table and its sentences, as plain text."""
        header = list(self.table[0]) if self.table else []
        cells = [header, *([row[name] for name in header] for row in self.table)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return "\n".join([self.run, *rows, *self.lines])


def run_recipe(
    recipe: str | Path,
    changes: Changes = None,
    *,
    from_stage: str | None = None,
    until_stage: str | None = None,
    resume_from: str | Path | None = None,
    store: str | Path | None = None,
    prefect: bool = False,
) -> RunResult:
    """Run a recipe in this process; stages that the store has are reused.

    Ctrl-C, or a notebook's stop button, saves the state first; the same call then continues. A second Ctrl-C ends the
    process at once.

    Args:
        recipe: a shipped name, or the path of a YAML file.
        changes: values by their keys, `{"student.shape.num_layers": 2}`, or texts as `--set` takes them.
        from_stage: first stage to run; the store must have those before it.
        until_stage: last stage to run.
        resume_from: a checkpoint's folder, or `mlflow:RUN_ID`, that the student continues.
        store: folder of checkpoints and reports; DISTILL_STORE or ./distill-store if left out.
        prefect: True makes it a flow run of the server in PREFECT_API_URL, or of a temporary one.

    Raises:
        ConfigError: the recipe, a change or an option is wrong; nothing has run.
        DataError: data or a model cannot be used.
        Interrupted: a stop was requested; the state is saved.
        RunsFailed: some of several tasks or seeds failed; its `report` has what the others made.
    """
    return _run(
        [recipe],
        changes,
        from_stage=from_stage,
        until_stage=until_stage,
        resume_from=resume_from,
        store=store,
        prefect=prefect,
    )


def run_recipes(
    recipes: Sequence[str | Path],
    changes: Changes = None,
    *,
    from_stage: str | None = None,
    until_stage: str | None = None,
    store: str | Path | None = None,
    prefect: bool = False,
) -> RunResult:
    """Run several recipes one after another, as `run_recipe` runs one; stages that they share are made once.

    The result's table has the lowest, mean and highest scores by recipe and task, over the recipe's `seeds`.

    Args:
        recipes: shipped names, or paths of YAML files.
        changes: as for `run_recipe`; of each recipe.
        from_stage: first stage to run; the store must have those before it.
        until_stage: last stage to run.
        store: folder of checkpoints and reports; DISTILL_STORE or ./distill-store if left out.
        prefect: True makes each a flow run of the server in PREFECT_API_URL, or of a temporary one.

    Raises:
        ConfigError: a recipe, a change or an option is wrong; nothing has run.
        DataError: data or a model cannot be used.
        Interrupted: a stop was requested; the state is saved, and the same call continues.
        RunsFailed: some of the runs failed; its `report` has what the others made.
    """
    return _run(recipes, changes, from_stage=from_stage, until_stage=until_stage, store=store, prefect=prefect)


def _run(
    recipes: Sequence[str | Path],
    changes: Changes,
    *,
    from_stage: str | None,
    until_stage: str | None,
    resume_from: str | Path | None = None,
    store: str | Path | None,
    prefect: bool,
) -> RunResult:
    prepare_environment()
    sources, overrides = [str(recipe) for recipe in recipes], _overrides(changes)
    chosen = {
        "from_stage": from_stage,
        "until_stage": until_stage,
        "resume_from": None if resume_from is None else str(resume_from),
        "store": None if store is None else str(store),
    }
    if prefect:
        return result_of(run_in_prefect(sources, overrides, chosen))
    resolved = read_shipped_recipes(sources, overrides)
    check_options(resolved, from_stage, until_stage, chosen["resume_from"])
    return result_of(_run_here(resolved, RunOptions.model_validate(chosen)))


def _run_here(recipes: Mapping[str, Recipe], options: RunOptions) -> AnyReport:
    """The report of runs without Prefect."""
    with first_reading():
        per_recipe(recipes, lambda recipe: check_data(recipe, options.store))  # before anything heavy is imported
        from pipeline.flow import execute
        from pipeline.several_recipes import run_each

        try:
            return run_each(recipes, options, execute)
        except Interrupted as error:
            raise Interrupted(f"{error}; {_AGAIN}") from None


def read_recipe(recipe: str | Path, changes: Changes = None) -> Recipe:
    """Read a shipped recipe by its name, or a YAML file, and apply changes as `run_recipe` does.

    Raises:
        ConfigError: there is no such recipe, or all of its problems.
    """
    return read_shipped(str(recipe), _overrides(changes))


def read_run(run: str | None = None, *, store: str | Path | None = None) -> RunResult:
    """Read a finished run of a store by its name; the newest if left out.

    Raises:
        ConfigError: the store has no such run.
    """
    from pipeline.store.checkpoints import look_into_store

    return result_of(look_into_store(read_settings(store).store).read_report(run))


def stage_of(recipe: Recipe, name: str, *teachers: CheckpointRef) -> StageConfig:
    """One stage of a recipe in full, for `stages.run.run_stage`.

    Args:
        recipe: the recipe.
        name: a stage of the recipe; or `teacher`, `other_teacher` or `multi_task_teacher`: the fine-tuning of one.
        teachers: checkpoints of those fine-tunings, in that order, if the stage learns from them.

    Raises:
        ConfigError: the recipe has no such stage, or the stage learns from other teachers.
    """
    made = teacher_candidates(recipe)
    fine_tunings = {configs[0].name: configs[0] for configs in reversed(made.values())}
    stages = {stage.name: stage for stage in recipe.stages}
    if name in fine_tunings:
        return fine_tunings[name]
    if name not in stages:
        names = [*reversed(fine_tunings), *stages]
        raise ConfigError(f"{recipe.name} has no stage {name}{suggestion(name, names)}; it has {', '.join(names)}")
    stage = stages[name]
    paths = [] if stage.teacher == "pretrained" else list(made)
    if len(teachers) != len(paths):
        raise ConfigError(
            f"{name}: give the checkpoints of its fine-tuned teachers, {len(paths)} in number, not {len(teachers)}: "
            "run_stage(stage_of(recipe, 'teacher'), None, ports).checkpoint is one"
        )
    finished = {
        path: finished_teacher(str(_model(teacher)), teacher.digest)
        for path, teacher in zip(paths, teachers, strict=True)
    }
    return stage_config(recipe, stage, task_teachers(recipe, finished))


def result_of(report: AnyReport) -> RunResult:
    """The report of a run as a result."""
    table = as_records(_table(report))
    common: dict[str, Any] = {"run": report.run, "store": Path(report.store), "table": tuple(table), "report": report}
    if not isinstance(report, RunReport):
        tasks = {task: result_of(part) for task, part in report.tasks.items()}
        return RunResult(**common, lines=tuple(tasks_table.summary(report)), tasks=tasks)
    student, teacher = run_table.student_row(report), run_table.teacher_row(report)
    return RunResult(
        **common,
        student=_model(student.checkpoint) if student and student.checkpoint else None,
        teacher=_model(teacher.checkpoint) if teacher and teacher.checkpoint else None,
        scores=student.judgement.scores if student else {},
        teacher_scores=teacher.judgement.scores if teacher else {},
        retained=report.retained,
        lines=tuple(run_table.summary(report)),
    )


def _model(checkpoint: CheckpointRef) -> Path:
    """The model of a checkpoint as a folder that transformers opens."""
    return Path(checkpoint.path).absolute() / "model"


def _table(report: AnyReport) -> ResultTable:
    return run_table.run_table(report) if isinstance(report, RunReport) else group_table(report)


def _overrides(changes: Changes) -> list[str]:
    """Changes as `--set` has them; a path is written as text, and JSON is YAML."""
    if isinstance(changes, Mapping):
        return [f"{key}={_written(value)}" for key, value in changes.items()]
    return [changes] if isinstance(changes, str) else list(changes or ())


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
