"""Descriptions of runs in MLflow, the rows of models that no stage made, and the view of all rows side by side."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.execution.judge import scores_of
from pipeline.reporting.loss_curves import reduced
from pipeline.reporting.result_table import as_markdown
from pipeline.reporting.run_table import NAMES, control_row, percent, run_table, student_row, summary, teacher_row
from pipeline.reporting.spread_table import group_table
from pipeline.reporting.tasks_table import summary as group_summary
from pipeline.tracking.parameters import describe_objective, describe_teacher
from pipeline.tracking.session import TrackedRun, Tracking
from pipeline.tracking.views import CHILDREN, ORDER_TAG, THIS_EXPERIMENT, THIS_RUN, THIS_VIEW, comparison
from schemas.data.stage_data import describe_data
from schemas.recipe.stage import STAGE_ORDER, TEACHER_NAMES, StageConfig
from schemas.results.manifest import Judgement, Row, RunReport
from schemas.results.report import GroupReport

ROW_TAG = "distill.row"
"""Name of a row of the closing table that is no stage: a published teacher, a bag of words."""
_BASELINES = ("hard_label_baseline", "bag_of_words")
_REDUCED = "reduced"
"""Folder of the smaller pictures among a run's artifacts."""
_COLOUR_TAG = "mlflow.runColor"
_STAGE_COLOURS = ("#9ecae1", "#6baed6", "#3182bd", "#08519c")
_COLOURS = {"1": "#5f5f5f", "2": "#bdbdbd", "4.0": "#e69f00", "4.1": "#cc79a7"}
"""By position; MLflow's own colours follow from the ids, so that two stages may have the same."""


def order_of(name: str) -> str:
    """Position of a row of that name, as text that sorts: teachers, the student as it began, stages, baselines."""
    if name in TEACHER_NAMES:
        return "1"
    if name in STAGE_ORDER:
        return f"3.{STAGE_ORDER.index(name)}"
    return f"4.{_BASELINES.index(name)}" if name in _BASELINES else "2"


def row_tags(name: str) -> dict[str, str]:
    """Tags that give a row of that name its place and colour in MLflow's charts."""
    order = order_of(name)
    colour = _STAGE_COLOURS[int(order[2:])] if order.startswith("3.") else _COLOURS[order]
    return {ORDER_TAG: order, _COLOUR_TAG: colour}


def log_picture(run: TrackedRun, png: bytes, name: str) -> None:
    """Store a picture, and beside it the smaller one that the run's description shows."""
    run.log_file(png, name)
    run.log_file(reduced(png), f"{_REDUCED}/{name}")


def describe_stage(run: TrackedRun, config: StageConfig, row: Row | None, before: Row | None) -> None:
    """Describe a stage's run: what it learned from whom, its scores beside those of the stage before, its curves.

    Args:
        run: the stage's run.
        config: the stage.
        row: its row of the closing table; None for a teacher's candidate that is not chosen yet.
        before: the row of the stage that it continued in this run; None without one.
    """
    lines = [_learned(config, before), ""]
    if run.trained_by is not None:  # above the table, since MLflow shows the first lines only
        link = f"#/experiments/{THIS_EXPERIMENT}/runs/{run.trained_by}"
        lines += [f"Found in the store and reused: [the run that trained it]({link}) has its curves and its model.", ""]
    if row is not None:
        lines += [*_score_lines(row, before), ""]
    if run.trained_by is None:
        lines.append(_picture("curves.png", "training losses"))
    run.describe(lines)


def _learned(config: StageConfig, before: Row | None) -> str:
    data, objective = describe_data(config.data), describe_objective(config.objective)
    if config.student is None:
        return f"**{config.name}**: the pretrained model, fine-tuned on **{data}** ({objective} labels)."
    if config.teacher is None:
        return f"**{NAMES.get(config.name, config.name)}**: the same student on **{data}**, without a teacher."
    text = f"**{config.name}** learned from **{describe_teacher(config.teacher)}** on **{data}**: **{objective}**"
    terms = () if config.objective.latent is None else config.objective.latent.terms
    text += f"; latent terms: {', '.join(term.name for term in terms)}" if terms else ""
    return f"{text}. It continued **{before.name}**." if before else f"{text}."


def _score_lines(row: Row, before: Row | None) -> list[str]:
    """The scores of a row, beside those of the row before, as a table in Markdown."""
    columns = [_scores(row.judgement), *([] if before is None else [_scores(before.judgement)])]
    names = [row.name, *([] if before is None else [before.name])]
    table = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for name in columns[0]:
        cells = [column[name] for column in columns]
        table += [f"| {name} | {' | '.join(cells)} |"] if set(cells) != {"–"} else []
    return table


def _scores(judgement: Judgement) -> dict[str, str]:
    return {
        "probe %": percent(judgement.probed),
        "latent loss": "–" if judgement.latent_loss is None else f"{judgement.latent_loss:.4g}",
        "score by its own head %": percent(judgement.task_metric),
        "agrees with the teacher %": percent(judgement.agreement),
    }


def _picture(name: str, alternative: str) -> str:
    return f"![{alternative}](get-artifact?path={_REDUCED}/{name}&run_uuid={THIS_RUN})"


def comparable_metrics(rows: Iterable[Row], metric: str | None) -> list[str]:
    """The metrics by which rows can be compared, and which some of them have.

    Training losses are not among them: every stage minimises another sum, with other weights.

    Args:
        rows: rows of a closing table.
        metric: the task's metric.
    """
    had = {name for row in rows for name in scores_of(row.judgement)}
    own = f"eval/{metric}" if f"eval/{metric}" in had else "eval/task_metric"
    names = ("eval/probe_accuracy", "eval/probe_score", "eval/latent_loss", own, "eval/agreement")
    return [name for name in names if name in had]


def show_run(report: RunReport, run: TrackedRun, tracking: Tracking) -> None:
    """Describe a run, log the rows that no stage made as runs below it, and save the view of all rows side by side."""
    models = {"student": student_row(report), "teacher": teacher_row(report)}
    models["hard_labels"] = control_row(report)
    scores = {name: row.judgement.task_metric for name, row in models.items() if row is not None}
    run.log(0, {f"result/{name}": score for name, score in scores.items() if score is not None})
    for row in report.rows:
        if row.checkpoint is None:
            _log_row(row, run, tracking)
    first, *others = summary(report)
    _describe(run, f"**{report.run}**: {first}", "stages", as_markdown(run_table(report), others))
    run.save_view(comparison(CHILDREN, comparable_metrics(report.rows, report.metric), "which stage helped"))


def show_group(report: GroupReport, run: TrackedRun) -> None:
    """Describe a run with several tasks or seeds, and save the view of their last students side by side."""
    _describe(run, f"**{report.run}**", "tasks", as_markdown(group_table(report), group_summary(report)))
    students = [row for row in map(student_row, report.tasks.values()) if row and row.mlflow_run_id]
    if students:
        ids = ", ".join(f"'{row.mlflow_run_id}'" for row in students)
        title = f"{'runs' if report.is_spread else 'tasks'} side by side"
        view = comparison(f"attributes.run_id IN ({ids})", comparable_metrics(students, None), title)
        run.save_view(view)


def _log_row(row: Row, run: TrackedRun, tracking: Tracking) -> None:
    tags = {ROW_TAG: row.name, **row_tags(row.name)}
    with tracking.start_run(NAMES.get(row.name, row.name), {}, tags, parent=run) as below:
        below.log(0, scores_of(row.judgement))


def _describe(run: TrackedRun, headline: str, rows: str, results: str) -> None:
    table, _, lines = results.partition("\n\n")
    run.describe(
        [
            headline,
            "",
            f"[The {rows} side by side]({THIS_VIEW})",
            "",
            *table.splitlines(),
            "",
            _picture(f"{rows}.png", f"scores of the {rows}"),
            "",
            *lines.splitlines(),
        ]
    )
