"""The closing table of a run with several tasks: a line for each, for the terminal, Prefect, MLflow and programs."""

from __future__ import annotations

from collections.abc import Container, Mapping
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.process.terminal import add_row, say, shown
from pipeline.reporting.run_table import (
    duration,
    is_subset,
    overlay_address,
    percent,
    print_report,
    rows_of,
    size_lines,
    student_row,
    teacher_row,
)
from schemas.core.metrics import ABOUT_ONE_CLASS
from schemas.data.averages import POSITIVE_LABELS
from schemas.data.averages import averages as published_averages
from schemas.results.manifest import Judgement, Row, RunReport
from schemas.results.report import AnyReport, TasksReport

COLUMNS = (
    "task",
    "metric",
    "teacher %",
    "student %",
    "retained %",
    "chance %",
    "retained above it %",
    "95 % interval",
    "hard labels %",
    "bag of words %",
    "time",
)
_BASELINES = ("hard_label_baseline", "bag_of_words")
# In a terminal on two lines, so that a table of several tasks fits it.
_HEADINGS = {
    "retained above it %": "retained\nabove it %",
    "95 % interval": "95 %\ninterval",
    "hard labels %": "hard\nlabels %",
    "bag of words %": "bag of\nwords %",
}


def models_of(report: RunReport) -> dict[str, Row]:
    """The lines of one task that are compared: teacher, student and baselines, as far as they are there."""
    found = {"teacher": teacher_row(report), "student": student_row(report)}
    found |= {row.name: row for row in report.rows if row.name in _BASELINES}
    return {name: row for name, row in found.items() if row is not None}


def scores_by_task(tasks: Mapping[str, RunReport]) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of every compared model by task and metric, such as `{"student": {"mrpc": {"f1": 0.88}}}`.

    Further validation rows of a task stand under their own name, as if they were a task.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for task, report in tasks.items():
        for model, row in models_of(report).items():
            parts = {task: row.judgement.scores, **row.judgement.further}
            for part, found in parts.items():
                if found:
                    values = {metric: score.value for metric, score in found.items()}
                    scores.setdefault(model, {})[part] = values
    return scores


def averages(
    scores: Mapping[str, Mapping[str, float]], main: Mapping[str, str], unlike: Container[tuple[str, str]] = ()
) -> dict[str, float]:
    """Averages of one model over the tasks, by name: of the tasks' own scores, and those that papers quote.

    Args:
        scores: by task and metric.
        main: every task's own metric; a mean over fewer tasks would not compare.
        unlike: tasks and metrics that are not what papers quote under these names.
    """
    found = {}
    if len(main) > 1 and all(metric in scores.get(task, {}) for task, metric in main.items()):
        found["mean"] = fmean(scores[task][metric] for task, metric in main.items())
    flat = {
        (task, metric): value
        for task, own in scores.items()
        for metric, value in own.items()
        if (task, metric) not in unlike
    }
    quoted = published_averages(flat)
    return found | {name: average.value for name, average in quoted.items() if average.value is not None}


def averages_of(tasks: Mapping[str, RunReport]) -> dict[str, dict[str, float]]:
    """Every average that the students have, for each model that has it."""
    main = {task: report.metric or "accuracy" for task, report in tasks.items()}
    found: dict[str, dict[str, float]] = {}
    for model, scores in scores_by_task(tasks).items():
        for name, value in averages(scores, main, _unlike_published(tasks)).items():
            found.setdefault(name, {})[model] = value
    return {name: models for name, models in found.items() if "student" in models}


def _unlike_published(tasks: Mapping[str, RunReport]) -> set[tuple[str, str]]:
    """Scores about another class than the one that papers mean."""
    return {
        (task, metric)
        for task, labels in POSITIVE_LABELS.items()
        if task in tasks and tasks[task].positive_label not in labels
        for metric in ABOUT_ONE_CLASS
    }


def cells(task: str, report: RunReport) -> tuple[str, ...]:
    """One task's texts, in the order of COLUMNS."""
    models = models_of(report)
    student = models.get("student")
    # Until a stage has trained a head there is the probe alone to compare.
    by_head = student is not None and student.judgement.task_metric is not None
    scores = {name: _shown(row.judgement, by_head=by_head) for name, row in models.items()}
    drawn = is_subset(report.validation_rows, report.validation_rows_of)
    rows = f" ({rows_of(report.validation_rows, report.validation_rows_of)})" if drawn else ""
    return (
        f"{task}{rows}",
        (report.metric_title if report.metric else "–") if by_head else "probe",
        scores.get("teacher", "–"),
        scores.get("student", "–"),
        percent(report.retained),
        percent(report.majority if by_head else None),
        percent(report.retained_above_chance),
        _interval(report),
        *(scores.get(name, "–") for name in _BASELINES),
        duration(report.seconds),
    )


def _shown(judgement: Judgement, *, by_head: bool) -> str:
    if by_head:
        return percent(judgement.task_metric)
    return percent(judgement.probed)


def _interval(report: RunReport) -> str:
    """Of the student's score."""
    student = student_row(report)
    score = student.judgement.scores.get(report.metric or "") if student else None
    return "–" if score is None else f"{percent(score.low)} to {percent(score.high)}"


def lines_of(report: TasksReport) -> list[tuple[str, ...]]:
    """The table: finished tasks, the others, and the averages over all of them."""
    lines = [cells(task, each) for task, each in report.tasks.items()]
    lines += [(task, "failed", *["–"] * (len(COLUMNS) - 2)) for task in report.failed]
    for name, models in report.averages.items():
        scores = [percent(models.get(model)) for model in ("teacher", "student", *_BASELINES)]
        lines.append((name, "", *scores[:2], "", "", "", "", *scores[2:], ""))
    return lines


def as_table(report: TasksReport) -> Table:
    """The comparison for a terminal."""
    title = f"{report.recipe} on {len(report.tasks) + len(report.failed)} tasks"
    table = Table(title=shown(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        left = name in ("task", "metric")
        title = "" if left else _HEADINGS.get(name, name)
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    lines, last = lines_of(report), len(report.tasks) + len(report.failed) - 1
    for index, line in enumerate(lines):
        add_row(
            table,
            line,
            style="red" if line[0] in report.failed else "bold" if index > last else None,
            end_section=index == last,
        )
    return table


def as_markdown(report: TasksReport) -> str:
    """The same table in Markdown, with the closing lines and each task's own report."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(line)} |" for line in lines_of(report)]
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(report))])


def as_records(report: TasksReport) -> list[dict[str, str]]:
    """The lines for a Prefect table artifact."""
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines_of(report)]


def summary(report: TasksReport) -> list[str]:
    """The closing lines under the table."""
    lines = []
    if report.shared:
        stages = ", ".join(
            f"{row.name} {'reused' if row.status == 'reused' else duration(row.seconds)}" for row in report.shared
        )
        lines.append(f"done once for all tasks: {stages}")
    for task, each in report.tasks.items():
        student = student_row(each)
        if student and student.checkpoint:
            lines.append(f"{task}: distill compare {each.run}; checkpoint {student.checkpoint.path}")
    sizes = [each.size for each in report.tasks.values() if each.size is not None]
    lines += size_lines(sizes[0]) if sizes else []
    lines += [f"{task} failed: {' '.join(why.split())}" for task, why in report.failed.items()]
    lines.append(f"time: {duration(report.seconds)}")
    return lines


def overlay_link(report: TasksReport, server: str) -> str | None:
    """Address of the page of MLflow's UI that lays the tasks' last stages over each other."""
    students = [student_row(each) for each in report.tasks.values()]
    runs = [row.mlflow_run_id for row in students if row and row.mlflow_run_id]
    return overlay_address(runs, report.mlflow_experiment_id, server)


def print_any(report: AnyReport, console: Console, *, mlflow: tuple[str | None, str]) -> None:
    """Print a run's tables, closing lines and what to do next; `mlflow` as for `print_report`."""
    if isinstance(report, RunReport):
        print_report(report, console, mlflow=mlflow)
        return
    command, server = mlflow
    console.print()
    console.print(as_table(report))
    for line in summary(report):
        say(console, line)
    if command:
        say(console, f"open MLflow's UI: {command}")
    if link := overlay_link(report, server):
        say(console, f"the tasks side by side: {link}")
