"""`distill compare A B`: what differs between two runs, and whether the second is better.

A difference of two scores has a paired interval where the store kept the scores of resampled rows of both models, and
the rows are the same (`schemas.results.score.Draws`). Otherwise it follows from the two intervals by squares (Newcombe
1998, Statistics in Medicine 17, 873-890, method 10), as if the rows were others; on the same rows that is too wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import hypot
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.reporting.paired import draws_of, paired_interval
from pipeline.reporting.run_table import student_row
from pipeline.store.checkpoints import CheckpointStore
from schemas.core.base import Frozen
from schemas.core.errors import ConfigError
from schemas.core.wording import shown_value
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import Judgement, Row, RunReport
from schemas.results.report import AnyReport
from schemas.results.score import Draws

Measure = Literal["probe", "latent loss", "task"]


class ChangedSetting(Frozen):
    """A setting that differs between two runs."""

    key: str
    """Path in the recipe, its stages by name; `data: …` for a count of the data that it leads to."""
    first: str
    """Value in the first run, as a message shows it."""
    second: str
    """Value in the second run."""


class ChangedScore(Frozen):
    """A score of the same stage in two runs."""

    stage: str
    """Stage, teacher or baseline; `student` for the last stages of both, whatever these are called."""
    measure: Measure
    """The linear probe, the latent loss (lower is better), or the task's metric by the model's own head."""
    first: float | None
    """Score in the first run; null where it has none."""
    second: float | None
    """Score in the second run."""
    difference: float | None = None
    """Second minus first; null where one is missing."""
    low: float | None = None
    """Lower end of the difference's 95 % interval; null without one."""
    high: float | None = None
    """Upper end."""
    basis: Literal["same model", "paired", "unpaired"] | None = None
    """Origin of the interval; null without one."""


class RunCost(Frozen):
    """Costs of one run, and its name."""

    run: str
    recipe: str
    tokens: int
    """Tokens that the student was trained on, in all stages."""
    seconds: float
    """Wall time of the whole run, stages that were reused left out."""
    parameters: int | None
    """Parameters of the student's encoder."""


class RunComparison(Frozen):
    """Two runs of the same task beside each other."""

    task: str | None
    metric: str | None
    """Title of the task's metric."""
    first: RunCost
    second: RunCost
    settings: tuple[ChangedSetting, ...]
    """Everything that differs."""
    scores: tuple[ChangedScore, ...]
    """Every stage of both runs in order."""
    student: ChangedScore | None
    """The finished students, by the task's metric or, without heads, by the probe; null where one run has none."""
    rows: int | None
    """Validation rows of the second run that were scored."""
    why_unpaired: str | None = None
    """Reason why intervals are not paired; null where they are."""


def compare_runs(first: AnyReport, second: AnyReport, store: CheckpointStore) -> tuple[RunComparison, ...]:
    """Compare two runs; where they have several tasks or seeds, one by one.

    Args:
        first: report of the run before the change.
        second: report of the run after it.
        store: the store of both.

    Raises:
        ConfigError: they have no task in common, or are scored by other metrics.
    """
    if isinstance(first, RunReport) and isinstance(second, RunReport):
        return (_compared(first, second, store),)
    if isinstance(first, RunReport) or isinstance(second, RunReport):
        several = second if isinstance(first, RunReport) else first
        assert not isinstance(several, RunReport)
        names = ", ".join(report.run for report in several.tasks.values())
        raise ConfigError(f"{several.run} stands for several runs, the other is one: compare with one of {names}")
    common = [task for task in first.tasks if task in second.tasks]
    if not common:
        raise ConfigError(f"{first.run} and {second.run} have no task or seed in common")
    return tuple(_compared(first.tasks[task], second.tasks[task], store) for task in common)


def _compared(first: RunReport, second: RunReport, store: CheckpointStore) -> RunComparison:
    if (first.task, first.metric) != (second.task, second.metric):
        titles = [
            f"{run.run} is about {run.task or 'text without a task'}, by {run.metric_title}" for run in (first, second)
        ]
        raise ConfigError(f"{'; '.join(titles)}: their scores do not compare; give two runs of one task and metric")
    rows = {name: (_row(first, name), _row(second, name)) for name in _names(first, second)}
    scores = [change for name, (before, after) in rows.items() for change in _changes(name, before, after, store)]
    students = _changes("student", student_row(first), student_row(second), store)
    student = next((score for score in reversed(students) if score.measure != "latent loss"), None)
    return RunComparison(
        task=second.task,
        metric=second.metric_title if second.metric else None,
        first=_cost(first),
        second=_cost(second),
        settings=_changed_settings(first, second),
        scores=tuple(scores),
        student=student if student and student.difference is not None else None,
        rows=second.validation_rows,
        why_unpaired=_why_unpaired(first, second, scores, store),
    )


def _names(first: RunReport, second: RunReport) -> list[str]:
    """Names of all rows in the order of the second run, those of the first alone before the row that follows them."""
    names = [row.name for row in second.rows if row.chosen]
    own = [row.name for row in first.rows if row.chosen]
    for position, name in enumerate(own):
        if name not in names:
            following = [names.index(later) for later in own[position:] if later in names]
            names.insert(min(following, default=len(names)), name)
    return list(dict.fromkeys(names))


def _row(report: RunReport, name: str) -> Row | None:
    return next((row for row in report.rows if row.name == name and row.chosen), None)


def _changes(name: str, before: Row | None, after: Row | None, store: CheckpointStore) -> list[ChangedScore]:
    """The scores of one row of the table that at least one of the runs has."""
    first, second = (row.judgement if row else Judgement() for row in (before, after))
    draws = draws_of(before, store), draws_of(after, store)
    digests = [row.checkpoint.digest if row and row.checkpoint else None for row in (before, after)]
    values: dict[Measure, tuple[float | None, float | None]] = {
        "probe": (first.probed, second.probed),
        "latent loss": (first.latent_loss, second.latent_loss),
        "task": (first.task_metric, second.task_metric),
    }
    changes = []
    for measure, (one, other) in values.items():
        fields: dict[str, Any] = {}
        if one is not None and other is not None:
            fields["difference"] = other - one
            if digests[0] is not None and digests[0] == digests[1] and one == other:
                fields |= {"low": 0.0, "high": 0.0, "basis": "same model"}
            elif (interval := _paired(measure, *draws) or _unpaired(measure, first, second)) is not None:
                fields |= interval
        if one is not None or other is not None:
            changes.append(ChangedScore(stage=name, measure=measure, first=one, second=other, **fields))
    return changes


def _paired(measure: Measure, before: Draws | None, after: Draws | None) -> dict[str, Any] | None:
    """The interval of the difference in draws of the same rows; None where the store has no such draws."""
    interval = None if measure == "latent loss" else paired_interval(after, before, measure)
    return None if interval is None else {"low": interval[0], "high": interval[1], "basis": "paired"}


def _unpaired(measure: Measure, before: Judgement, after: Judgement) -> dict[str, Any] | None:
    """The interval of the difference that follows from those of the two scores; None without these."""
    main = next(iter(after.scores), None)
    if measure != "task" or main is None or main not in before.scores:
        return None
    one, other = before.scores[main], after.scores[main]
    value = other.value - one.value
    low = value - hypot(other.value - other.low, one.high - one.value)
    high = value + hypot(other.high - other.value, one.value - one.low)
    return {"low": low, "high": high, "basis": "unpaired"}


def _why_unpaired(
    first: RunReport, second: RunReport, scores: list[ChangedScore], store: CheckpointStore
) -> str | None:
    if not any(score.basis == "unpaired" for score in scores):
        return None
    kept = [draws.rows for report in (first, second) for row in report.rows if (draws := draws_of(row, store))]
    if len(set(kept)) > 1:
        return "they were scored on other validation rows, or against another teacher's answers"
    if first.validation_rows != second.validation_rows:
        return f"they were scored on {first.validation_rows or 0:,} and {second.validation_rows or 0:,} validation rows"
    return "the store did not keep what both answered (an earlier version kept nothing)"


def _cost(report: RunReport) -> RunCost:
    return RunCost(
        run=report.run,
        recipe=report.recipe,
        tokens=sum(row.tokens or 0 for row in report.rows if row.kind == "stage"),
        seconds=report.seconds,
        parameters=report.size.student_parameters if report.size else None,
    )


def _changed_settings(first: RunReport, second: RunReport) -> tuple[ChangedSetting, ...]:
    return tuple(_differences(_settings(first), _settings(second), ""))


def _differences(before: Any, after: Any, path: str) -> Iterator[ChangedSetting]:
    """Yield what differs; a part that one run lacks counts as one setting."""
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    is_quantity = isinstance(after, dict) and after.keys() == {"amount", "unit"}
    if isinstance(before, dict) and isinstance(after, dict) and not is_quantity:
        for key in dict.fromkeys([*after, *before]):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield ChangedSetting(key=path, first=_shown(before), second=_shown(after))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        if value.keys() == {"amount", "unit"}:
            return f"{value['amount']:,g} {value['unit']}"
        return str(value.get("kind") or value.get("name") or "set")
    return "not set" if value is None else shown_value(value)


def _settings(report: RunReport) -> dict[str, Any]:
    """The recipe as it was run, its stages by name, and counts of the data."""
    try:  # with the defaults of fields that a report of an earlier version lacks
        recipe = Recipe.model_validate(report.resolved).model_dump(mode="json")
    except ValidationError:
        recipe = dict(report.resolved)
    recipe["stages"] = {stage["name"]: stage for stage in recipe.get("stages", ())}
    for key in ("name", "description"):
        recipe.pop(key, None)
    if report.data is not None and report.data.task is not None:
        recipe["data"] = {f"{name} rows": split.rows for name, split in report.data.task.splits.items()}
    if report.data is not None and report.data.corpus is not None:
        recipe.setdefault("data", {})["corpus rows"] = sum(source.train for source in report.data.corpus.sources)
    return recipe
