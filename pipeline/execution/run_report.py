"""The report of a run with one task: what it says, and where it is shown."""

from __future__ import annotations

import base64
import logging
import re
from typing import Any, Literal

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from pipeline.execution.mlflow_notes import log_picture, show_run
from pipeline.execution.prefect_tasks import in_prefect
from pipeline.execution.stage_runner import StageRunner
from pipeline.reporting.paired import paired_difference
from pipeline.reporting.result_table import as_markdown, as_records
from pipeline.reporting.run_table import (
    control_row,
    rows_of,
    run_table,
    score_tags,
    student_row,
    summary,
    teacher_row,
)
from pipeline.reporting.score_figures import stage_comparison
from pipeline.reporting.shipping_table import shipping_lines, shipping_table
from pipeline.tracking.session import TrackedRun, Tracking
from schemas.core.errors import DistillError
from schemas.data.tasks import describe_task
from schemas.results.manifest import Row, RunReport, Size
from schemas.results.shipping import Shipping
from stages.judge import chance
from stages.models.student import encoder_flops
from stages.preflight.checks import PreflightResult

log = logging.getLogger(__name__)


def make_report(runner: StageRunner, name: str, facts: PreflightResult) -> RunReport:
    """The report of the stages that `runner` has run, without its time and what is shipped.

    Args:
        runner: with the rows of the closing table.
        name: name of the report.
        facts: findings of the preflight checks.
    """
    recipe, judge, context = runner.recipe, runner.judge, runner.context
    yardstick = judge.yardstick
    scorer, guessed = yardstick.scorer, chance(yardstick)
    counted = (None, None) if scorer is None else scorer.counted
    metric = recipe.task.main_metric if recipe.task else None
    report = RunReport(
        run=name,
        recipe=recipe.name,
        task=describe_task(recipe.task) if recipe.task else None,
        seed=runner.variant.seed,
        metric=metric,
        positive_label=scorer.rows.task.positive_label if scorer else None,
        data=facts.card,
        rows=tuple(judge.rows),
        teachers=judge.teacher_reports,
        size=_size(judge.rows, facts),
        validation_rows=counted[0],
        validation_rows_of=counted[1],
        further_rows={name: further.counted for name, further in yardstick.further.items()},
        majority=guessed.get(metric or ""),
        guessed=guessed,
        seconds=0.0,
        mlflow_run_id=runner.run.run_id,
        mlflow_experiment_id=context.tracking.experiment_id,
        mlflow_view=True,
        store=str(context.store.root),
        resolved=recipe.model_dump(mode="json"),
    )
    minus_control = paired_difference(student_row(report), control_row(report), context.store)
    return report.model_copy(update={**retained_shares(report), "minus_control": minus_control})


def retained_shares(report: RunReport) -> dict[str, Any]:
    """Shares of the teacher's scores, and of what these have above guessing, that the student retained."""
    student_line, teacher_line = student_row(report), teacher_row(report)
    if not student_line or not teacher_line:
        return {}
    student, teacher = student_line.judgement, teacher_line.judgement
    shares: dict[str, Any] = {}
    if student.task_metric is not None and teacher.task_metric:
        shares["retained"] = student.task_metric / teacher.task_metric
    gains = {
        metric: (student.scores[metric].value - guess) / (teacher.scores[metric].value - guess)
        for metric, guess in report.guessed.items()
        if metric in student.scores
        and metric in teacher.scores
        # A teacher accepted at chance level has nothing above it to retain.
        and teacher.scores[metric].value > guess
    }
    return shares | {"gains_retained": gains, "retained_above_chance": gains.get(report.metric or "")}


def _size(rows: list[Row], facts: PreflightResult) -> Size | None:
    """Parameters and operations of student and teacher; None where no stage was run."""
    if not any(row.kind == "stage" for row in rows):
        return None
    return Size(
        student_parameters=facts.student_parameters,
        teacher_parameters=facts.teacher_parameters,
        student_flops=encoder_flops(facts.student),
        teacher_flops=encoder_flops(facts.teacher),
    )


def publish(report: RunReport, run: TrackedRun, tracking: Tracking, *, key: str) -> None:
    """Show the report in its MLflow run and as artifacts in Prefect, whose names begin with `key`."""
    show_run(report, run, tracking)
    shipped = "" if report.shipping is None else _shipping(report.shipping, report.run, run)
    run.log_file(as_markdown(run_table(report), summary(report)) + shipped, "report.md")
    run.log_file(report.model_dump_json(indent=2), "report.json")
    picture = stage_comparison(report)
    log_picture(run, picture, "stages.png")
    scores = {
        "retained": report.retained,
        "retained_above_chance": report.retained_above_chance,
        "guessed": report.majority,
        "minus_control": None if report.minus_control is None else report.minus_control.value,
    }
    if report.validation_rows is not None:
        run.set_tags(score_tags(report.positive_label, rows_of(report.validation_rows, report.validation_rows_of)))
    run.log(0, {f"result/{name}": value for name, value in scores.items() if value is not None})
    show_in_prefect(key, "stages", as_records(run_table(report)), summary(report), picture)


def _shipping(shipping: Shipping, name: str, run: TrackedRun) -> str:
    """Log sizes and times of the student's forms; return their table in Markdown."""
    values: dict[str, float] = {}
    for form in shipping.forms:
        key = f"ship/{form.name.replace(', ', '_').replace(' ', '_').lower()}"
        values |= {f"{key}/bytes": form.size, f"{key}/ms": form.latency.wall_ms}
        values |= {f"{key}/times_faster": form.latency.times_faster}
        if form.same_answers is not None:
            values[f"{key}/same_answers"] = form.same_answers
    run.log(0, values)
    program = "" if shipping.python is None else f"\n\n```python\n{shipping.python}\n```\n"
    return "\n\n" + as_markdown(shipping_table(shipping), shipping_lines(shipping, name)) + program


def show_in_prefect(
    key: str, content: Literal["stages", "tasks"], table: list[dict[str, str]], lines: list[str], picture: bytes
) -> None:
    """Store a table, the lines below it and a PNG picture as artifacts of the flow run, if there is one."""
    if not in_prefect():
        return
    key = re.sub(r"[^a-z0-9]+", "-", key.lower())
    try:
        create_table_artifact(key=f"{key}-{content}", table=table, description=f"The run's {content} side by side")
        create_markdown_artifact(
            key=f"{key}-result", markdown="\n".join(f"- {line}" for line in lines), description="What came out"
        )
        # In the artifact itself: Prefect's page has no other way to the store's files.
        image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        create_image_artifact(image, key=f"{key}-picture", description=f"The run's {content} in pictures")
    except DistillError:
        raise
    except Exception as error:  # the run itself is complete without them
        log.warning("Prefect did not accept the results table (%s); it is in the store and in MLflow", error)
