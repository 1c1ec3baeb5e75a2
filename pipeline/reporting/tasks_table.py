"""The closing table of a run with several tasks, a row for each, and the lines below the table of several runs."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from statistics import fmean

from pipeline.reporting.result_table import Column, ResultTable, TableRow
from pipeline.reporting.run_table import (
    comparison_address,
    duration,
    percent,
    size_lines,
    student_row,
    subset_note,
    teacher_row,
)
from schemas.core.metrics import ABOUT_ONE_CLASS
from schemas.data.averages import POSITIVE_LABELS
from schemas.data.averages import averages as published_averages
from schemas.results.manifest import Judgement, Row, RunReport
from schemas.results.report import GroupReport

_BASELINES = ("hard_label_baseline", "bag_of_words")
COLUMNS = (
    Column("task", "", is_text=True),
    Column("metric", "", is_text=True),
    Column("teacher %"),
    Column("student %"),
    Column("retained %"),
    Column("chance %"),
    # On two lines in a terminal, so that the table fits it.
    Column("retained above it %", "retained\nabove it %"),
    Column("95 % interval", "95 %\ninterval"),
    Column("hard labels %", "hard\nlabels %"),
    Column("bag of words %", "bag of\nwords %"),
    Column("time"),
)


def models_of(report: RunReport) -> dict[str, Row]:
    """The rows of one task that are compared: teacher, student and baselines, without those that the run lacks."""
    rows = {"teacher": teacher_row(report), "student": student_row(report)}
    rows |= {row.name: row for row in report.rows if row.name in _BASELINES}
    return {name: row for name, row in rows.items() if row is not None}


def scores_by_task(tasks: Mapping[str, RunReport]) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of every compared model by task and metric, such as `{"student": {"mrpc": {"f1": 0.88}}}`.

    Further validation rows of a task count as a task of their own.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for task, report in tasks.items():
        for model, row in models_of(report).items():
            parts = {task: row.judgement.scores, **row.judgement.further}
            for part, part_scores in parts.items():
                if part_scores:
                    values = {metric: score.value for metric, score in part_scores.items()}
                    scores.setdefault(model, {})[part] = values
    return scores


def averages(
    scores: Mapping[str, Mapping[str, float]], main: Mapping[str, str], unlike: Container[tuple[str, str]] = ()
) -> dict[str, float]:
    """Averages of one model over the tasks, by name: the mean of the main scores, and averages that papers report.

    Args:
        scores: by task and metric.
        main: the main metric of every task; a mean over fewer tasks would not be comparable.
        unlike: tasks and metrics that differ from what papers report under these names.
    """
    named = {}
    if len(main) > 1 and all(metric in scores.get(task, {}) for task, metric in main.items()):
        named["mean"] = fmean(scores[task][metric] for task, metric in main.items())
    comparable = {
        (task, metric): value
        for task, task_scores in scores.items()
        for metric, value in task_scores.items()
        if (task, metric) not in unlike
    }
    quoted = published_averages(comparable)
    return named | {name: average.value for name, average in quoted.items() if average.value is not None}


def averages_of(tasks: Mapping[str, RunReport]) -> dict[str, dict[str, float]]:
    """Every average that the students have, with its value for each model that has it."""
    main = {task: report.metric or "accuracy" for task, report in tasks.items()}
    by_name: dict[str, dict[str, float]] = {}
    for model, scores in scores_by_task(tasks).items():
        for name, value in averages(scores, main, _unlike_published(tasks)).items():
            by_name.setdefault(name, {})[model] = value
    return {name: models for name, models in by_name.items() if "student" in models}


def _unlike_published(tasks: Mapping[str, RunReport]) -> set[tuple[str, str]]:
    """Scores about a class other than the one that papers report."""
    return {
        (task, metric)
        for task, labels in POSITIVE_LABELS.items()
        if task in tasks and tasks[task].positive_label not in labels
        for metric in ABOUT_ONE_CLASS
    }


def _cells(task: str, report: RunReport) -> tuple[str, ...]:
    models = models_of(report)
    student = models.get("student")
    # Before a stage has trained a head, only the probe can be compared.
    by_head = student is not None and student.judgement.task_metric is not None
    scores = {name: _score(row.judgement, by_head=by_head) for name, row in models.items()}
    interval = student.judgement.scores.get(report.metric or "") if student else None
    return (
        f"{task} ({subset.removeprefix(', ')})" if (subset := subset_note(report)) else task,
        (report.metric_title if report.metric else "–") if by_head else "probe",
        scores.get("teacher", "–"),
        scores.get("student", "–"),
        percent(report.retained),
        percent(report.majority if by_head else None),
        percent(report.retained_above_chance),
        "–" if interval is None else f"{percent(interval.low)} to {percent(interval.high)}",
        *(scores.get(name, "–") for name in _BASELINES),
        duration(report.seconds),
    )


def _score(judgement: Judgement, *, by_head: bool) -> str:
    return percent(judgement.task_metric if by_head else judgement.probed)


def tasks_table(report: GroupReport) -> ResultTable:
    """The table: finished tasks, failed tasks, and averages over all of them."""
    rows = [TableRow(_cells(task, task_report)) for task, task_report in report.tasks.items()]
    rows += [TableRow((task, "failed", *["–"] * (len(COLUMNS) - 2)), "red") for task in report.failed]
    rows[-1:] = [replace(row, ends_section=True) for row in rows[-1:]]
    for name, models in report.averages.items():
        scores = [percent(models.get(model)) for model in ("teacher", "student", *_BASELINES)]
        rows.append(TableRow((name, "", *scores[:2], "", "", "", "", *scores[2:], ""), "bold"))
    title = f"{report.recipe} on {len(report.tasks) + len(report.failed)} tasks"
    return ResultTable(COLUMNS, tuple(rows), title)


def summary(report: GroupReport) -> list[str]:
    """The lines printed below the table."""
    lines = []
    if report.shared:
        stages = ", ".join(
            f"{row.name} {'reused' if row.status == 'reused' else duration(row.seconds)}" for row in report.shared
        )
        lines.append(f"shared by all tasks: {stages}")
    for task, task_report in report.tasks.items():
        student = student_row(task_report)
        if student and student.checkpoint:
            score = f" {percent(student.judgement.task_metric)} %;" if report.is_spread else ""
            lines.append(f"{task}:{score} distill compare {task_report.run}; checkpoint {student.checkpoint.path}")
    sizes = {run.recipe: size_lines(run.size) for run in report.tasks.values() if run.size is not None}
    if len(sizes) == 1:
        lines += [line for size in sizes.values() for line in size]
    lines += [f"{recipe}: {size[0]}" for recipe, size in sizes.items() if len(sizes) > 1]
    lines += [f"{task} failed: {' '.join(reason.split())}" for task, reason in report.failed.items()]
    lines.append(f"time: {duration(report.seconds)}")
    return lines


def comparison_link(report: GroupReport, server: str) -> str | None:
    """Address of the page of MLflow's UI that shows the tasks' last students side by side."""
    students = map(student_row, report.tasks.values())
    runs = [row.mlflow_run_id for row in students if row and row.mlflow_run_id]
    view = report.mlflow_run_id if report.mlflow_view else None
    return comparison_address(runs, report.mlflow_experiment_id, view, server)
