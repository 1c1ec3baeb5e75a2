"""A run's closing table: for the terminal, for Prefect and MLflow, and for programs."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from schemas.results import Row, RunReport, Size

_NAMES = {"hard_label_baseline": "hard labels only", "bag_of_words": "bag of words"}
COLUMNS = ("", "probe", "latent", "task metric", "agreement", "tokens", "time", "")


def percent(value: float | None) -> str:
    """`0.876` as `87.6`; a dash where there is nothing."""
    return "–" if value is None else f"{100 * value:.1f}"


def amount(value: int | None) -> str:
    """Tokens, rounded for reading: `2.5 M`, `300 k`."""
    if value is None:
        return "–"
    if value >= 1_000_000:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.0f} k" if value >= 1000 else str(value)


def duration(seconds: float | None) -> str:
    """Seconds as `75 s`, `12.5 min`, `2.2 h`."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def cells(row: Row) -> tuple[str, ...]:
    """One row's texts, in the order of COLUMNS."""
    scores = row.judgement
    latent = "–" if scores.latent_loss is None else f"{scores.latent_loss:.4g}"
    return (
        _NAMES.get(row.name, row.name),
        percent(scores.probe_accuracy),
        latent,
        percent(scores.task_metric),
        percent(scores.agreement),
        amount(row.tokens),
        duration(row.seconds),
        "" if row.status == "ran" else row.status,
    )


def as_table(report: RunReport) -> Table:
    """The report's rows for a terminal."""
    metric = report.metric or "task metric"
    title = f"{report.recipe} on {report.task or 'general text'}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        label = {"task metric": metric, "agreement": "agrees"}.get(name, name)
        label += " %" if name in ("probe", "task metric", "agreement") else ""
        table.add_column(label, justify="right" if name else "left", no_wrap=True)
    for index, row in enumerate(report.rows):
        following = report.rows[index + 1] if index + 1 < len(report.rows) else None
        last_of_kind = following is not None and following.kind != row.kind
        style = "bold" if row.name == "task_specific" else "dim" if row.kind == "baseline" else None
        table.add_row(*cells(row), style=style, end_section=last_of_kind)
    return table


def as_markdown(report: RunReport) -> str:
    """The same table in Markdown, with the closing lines."""
    header = [name or " " for name in COLUMNS]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in report.rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(report))])


def as_records(report: RunReport) -> list[dict[str, str]]:
    """The rows for a Prefect table artifact."""
    names = [name or ("stage" if index == 0 else "status") for index, name in enumerate(COLUMNS)]
    return [dict(zip(names, cells(row), strict=True)) for row in report.rows]


def size_lines(size: Size) -> list[str]:
    """Parameters, operations and speed in words."""
    lines = [
        f"parameters: student {size.student_parameters / 1e6:.2f} M, teacher {size.teacher_parameters / 1e6:.2f} M "
        f"({size.teacher_parameters / size.student_parameters:.1f} times fewer)",
        f"encoder operations at length 128: student {size.student_flops / 1e9:.2f} G, teacher "
        f"{size.teacher_flops / 1e9:.2f} G ({100 * size.student_flops / size.teacher_flops:.0f} %)",
    ]
    if size.speed_up is not None:
        lines.append(
            f"speed: {size.speed_up:.2f} times the teacher's (rounds from {size.speed_up_low:.2f} to "
            f"{size.speed_up_high:.2f}; {size.speed_up_sequences} sequences of {size.speed_up_length} tokens, fp32, "
            "this machine)"
        )
    return lines


def student_row(report: RunReport) -> Row | None:
    """The finished student: the last stage."""
    return next((row for row in reversed(report.rows) if row.kind == "stage"), None)


def teacher_row(report: RunReport) -> Row | None:
    """The teacher's line."""
    return next((row for row in report.rows if row.kind == "teacher"), None)


def interval(accuracy: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `rows` right answers."""
    from scipy.stats import binomtest

    found = binomtest(round(accuracy * rows), rows).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def summary(report: RunReport) -> list[str]:
    """The closing lines under the table."""
    lines: list[str] = []
    student, teacher = student_row(report), teacher_row(report)
    if student and teacher and report.retained is not None:
        lines.append(
            f"student {percent(student.judgement.task_metric)} %, teacher {percent(teacher.judgement.task_metric)} %: "
            f"{percent(report.retained)} % retained"
            + (
                f"; above chance ({percent(report.majority)} %): {percent(report.retained_above_chance)} %"
                if report.retained_above_chance is not None
                else ""
            )
        )
    for row in (student, teacher):
        if row and row.judgement.accuracy is not None and report.validation_rows:
            low, high = interval(row.judgement.accuracy, report.validation_rows)
            lines.append(
                f"{row.name}: accuracy {percent(row.judgement.accuracy)} %, 95 % interval {percent(low)} to "
                f"{percent(high)} ({report.validation_rows:,} rows)"
            )
    if report.size is not None:
        lines += size_lines(report.size)
    if student and student.checkpoint:
        lines.append(f"checkpoint: {student.checkpoint.path}")
    lines.append(f"time: {duration(report.seconds)}")
    return lines


def overlay_link(report: RunReport, server: str) -> str | None:
    """Address of the page of MLflow's UI that lays the stages' training losses over each other.

    Args:
        report: the run.
        server: address of the UI, such as `http://127.0.0.1:5000`.
    """
    runs = [row.mlflow_run_id for row in report.rows if row.kind == "stage" and row.mlflow_run_id]
    if not runs or report.mlflow_experiment_id is None:
        return None
    query = urlencode(
        {
            "runs": json.dumps(runs),
            "metric": json.dumps("train/loss"),
            "experiments": json.dumps([report.mlflow_experiment_id]),
            "plot_metric_keys": json.dumps(["train/loss"]),
            "x_axis": "step",
            "y_axis_scale": "log",
            "workflowType": "machine_learning",
        }
    )
    return f"{server.rstrip('/')}/#/metric?{query}"


def print_report(report: RunReport, console: Console, *, mlflow: tuple[str | None, str]) -> None:
    """Print table, closing lines and what to do next.

    Args:
        report: the run.
        console: where to.
        mlflow: the command that starts MLflow's UI (null where a server runs already), and its address.
    """
    command, server = mlflow
    console.print()
    console.print(as_table(report))
    for line in summary(report):
        console.print(line, highlight=False, soft_wrap=True)
    if command:
        console.print(f"open MLflow's UI: {command}", highlight=False, soft_wrap=True)
    if link := overlay_link(report, server):
        console.print(f"the stages side by side: {link}", highlight=False, soft_wrap=True)
