"""The closing table of several seeds or recipes: lowest, mean and highest score of every model, by recipe and task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pipeline.reporting.result_table import Column, Emphasis, ResultTable, TableRow
from pipeline.reporting.run_table import percent
from pipeline.reporting.tasks_table import averages_of, models_of, tasks_table
from schemas.results.manifest import Judgement, RunReport
from schemas.results.report import GroupReport

_NAMES = {
    "teacher": "teacher",
    "student": "student",
    "hard_label_baseline": "hard labels only",
    "bag_of_words": "bag of words",
}
_KEYS = ("recipe", "task", "metric")
_COLUMNS = (
    *(Column(name, is_text=True, wraps=True) for name in _KEYS),
    Column("model", "", is_text=True, wraps=True),
    *map(Column, ("runs", "lowest", "mean", "highest")),
)


@dataclass(frozen=True)
class _Spread:
    """Scores of a model, or differences of two, over the runs of one recipe and task."""

    name: str
    values: Sequence[float]
    write: Callable[[float], str] = percent

    def row(self, *keys: str) -> TableRow:
        numbers = min(self.values), fmean(self.values), max(self.values)
        emphasis: Emphasis = "bold" if self.name == "student" else ""
        return TableRow((*keys, self.name, str(len(self.values)), *map(self.write, numbers)), emphasis)


def group_table(report: GroupReport) -> ResultTable:
    """The table of several runs: summed up by recipe and task, or of tasks one by one."""
    return _spread_table(report) if report.is_spread else tasks_table(report)


def mean_scores(report: GroupReport) -> dict[str, float]:
    """Mean scores of teacher, student and hard labels over the runs of one recipe and task; empty for several."""
    groups = _groups(report)
    if len(groups) != 1:
        return {}
    runs = next(iter(groups.values()))
    values = {name: _values(runs, name, lambda judgement: judgement.task_metric) for name in _NAMES}
    named = {"teacher": "teacher", "student": "student", "hard_label_baseline": "hard_labels"}
    return {key: fmean(values[name].values()) for name, key in named.items() if values[name]}


def _groups(report: GroupReport) -> dict[tuple[str, str], list[RunReport]]:
    """The runs of each recipe and task, which differ by their seeds."""
    groups: dict[tuple[str, str], list[RunReport]] = {}
    for label, run in report.tasks.items():
        groups.setdefault((run.recipe, _task(label, run)), []).append(run)
    return groups


def _task(label: str, run: RunReport) -> str:
    """Name of a run's task among several: `mrpc` of `ernie-tiny/mrpc-seed0`; empty for the only one."""
    name = "" if label == run.recipe else label.removeprefix(f"{run.recipe}/")
    return name.removesuffix(f"seed{run.seed}").removesuffix("-")


def _spread_table(report: GroupReport) -> ResultTable:
    rows: list[TableRow] = []
    for (recipe, task), runs in _groups(report).items():
        metric, spreads = _spreads(runs)
        rows += _section([spread.row(recipe, task or runs[0].task or "general text", metric) for spread in spreads])
    for (recipe, average), spreads in _averages(report).items():
        rows += _section([spread.row(recipe, average, "average %") for spread in spreads])
    # A column of one value is part of the title.
    values = [list(dict.fromkeys(row.cells[index] for row in rows)) for index in range(len(_KEYS))]
    shown = [index for index in range(len(_COLUMNS)) if index >= len(_KEYS) or len(values[index]) > 1]
    single = [found[0] if len(found) == 1 else "" for found in values]
    rows += [TableRow((*[""] * len(_KEYS), f"{label}: failed", *["–"] * 4), "red") for label in report.failed]
    recipe, task, metric = single
    title = f"{recipe or f'{len(values[0])} recipes'}{f' on {task}' if task else ''}{f': {metric}' if metric else ''}"
    return ResultTable(
        tuple(_COLUMNS[index] for index in shown),
        tuple(replace(row, cells=tuple(row.cells[index] for index in shown)) for row in rows),
        title if rows else report.recipe,
    )


def _section(rows: list[TableRow]) -> list[TableRow]:
    return [*rows[:-1], *(replace(row, ends_section=True) for row in rows[-1:])]


def _spreads(runs: Sequence[RunReport]) -> tuple[str, list[_Spread]]:
    """Name of the measure that the students of all runs have, and the scores by it: own heads, probes, latent loss."""
    students = [models["student"].judgement for run in runs if "student" in (models := models_of(run))]
    measures: dict[str, Callable[[Judgement], float | None]] = {
        f"{runs[0].metric_title} %": lambda judgement: judgement.task_metric,
        "probe %": lambda judgement: judgement.probed,
        "latent loss": lambda judgement: judgement.latent_loss,
    }
    common = [name for name, read in measures.items() if all(read(student) is not None for student in students)]
    if not students or not common:
        return "–", []
    metric, read = common[0], measures[common[0]]
    scores = {name: _values(runs, name, read) for name in _NAMES}
    if metric == "latent loss":
        return metric, [_Spread("student", [*scores["student"].values()], "{:.4g}".format)]
    spreads = [_Spread(_NAMES[name], [*values.values()]) for name, values in scores.items() if values]
    return metric, [*spreads, *_differences(scores)]


def _values(runs: Sequence[RunReport], model: str, read: Callable[[Judgement], float | None]) -> dict[str, float]:
    """Scores of a model by the name of the run, without runs that lack it."""
    rows = {run.run: models_of(run).get(model) for run in runs}
    scores = {name: read(row.judgement) for name, row in rows.items() if row is not None}
    return {name: score for name, score in scores.items() if score is not None}


def _differences(scores: Mapping[str, Mapping[str, float]]) -> Iterator[_Spread]:
    """Yield the student's differences, in points, from its teacher and from the same student on hard labels alone."""
    for model, name in (("teacher", "teacher"), ("hard_label_baseline", "hard labels")):
        both = [run for run in scores["student"] if run in scores[model]]
        if both:
            points = [100 * (scores["student"][run] - scores[model][run]) for run in both]
            yield _Spread(f"student minus {name}", points, "{:+.1f}".format)


def _averages(report: GroupReport) -> dict[tuple[str, str], list[_Spread]]:
    """Averages over the tasks of each recipe, over its seeds; none where a run failed."""
    by_seed: dict[tuple[str, int | None], dict[str, RunReport]] = {}
    for label, run in report.tasks.items() if not report.failed else ():
        by_seed.setdefault((run.recipe, run.seed), {})[_task(label, run)] = run
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (recipe, _), tasks in by_seed.items():
        for average, models in averages_of(tasks).items():
            for model, value in models.items():
                values.setdefault((recipe, average), {}).setdefault(model, []).append(value)
    return {
        key: [_Spread(_NAMES[model], models[model]) for model in _NAMES if model in models]
        for key, models in values.items()
    }
