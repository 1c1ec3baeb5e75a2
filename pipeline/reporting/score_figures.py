"""Figures of a run: its stages against its teacher, and the scores of several tasks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.reporting.loss_curves import BLACK, COLOURS, GREY, as_png, new_figure
from pipeline.reporting.run_table import NAMES, percent, subset_note, teacher_row
from schemas.results.manifest import Row, RunReport
from schemas.results.report import GroupReport
from schemas.results.score import Score

_STAGE, _BASELINE = COLOURS[0], COLOURS[4]


def stage_comparison(report: RunReport) -> bytes:
    """Draw the figure of `stage_figure` as PNG."""
    return as_png(stage_figure(report))


def stage_figure(report: RunReport) -> Any:
    """Draw up to three panels, each of the models that have its value.

    They show the linear probe of every stage, its latent loss, and the score of every trained head with its 95 %
    interval. The teacher is a line in the first panel and the first point of the third.
    """
    others = [row for row in report.rows if row.kind != "teacher"]
    probed = [row for row in others if row.judgement.probed is not None]
    latent = [row for row in others if row.judgement.latent_loss is not None]
    scored = _scored(report)
    # The title of the third needs the width of three bars.
    widths = [max(least, len(rows)) for rows, least in ((probed, 2), (latent, 2), (scored, 3)) if rows]
    figure = new_figure(max(5.0, 1.15 * sum(widths) + 1.0), 4.4)
    panels = iter(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0] if widths else ())
    if probed:
        _draw_probe(next(panels), report, probed)
    if latent:
        axes = next(panels)
        losses = [row.judgement.latent_loss or 0.0 for row in latent]
        _bars(axes, latent, losses, [f"{loss:.3g}" for loss in losses])
        axes.set_title("latent loss, held-out text", loc="left", fontsize=10)
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
    if scored:
        axes = next(panels)
        _draw_scores(axes, scored)
        axes.set_title(f"own head, {report.metric_title} %, 95 % interval", loc="left", fontsize=10)
    task = f", {report.task}" if report.task not in (None, report.recipe) else ""
    figure.suptitle(f"{report.recipe}{task}{subset_note(report)}", x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def task_comparison(report: GroupReport) -> bytes:
    """Draw a panel for each finished task as a PNG: the score of every trained head with its 95 % interval."""
    by_task = {task: scored for task, task_report in report.tasks.items() if (scored := _scored(task_report))}
    columns = max(1, min(4, len(by_task)))
    lines = max(1, -(-len(by_task) // columns))
    figure = new_figure(3.6 * columns + 0.6, 3.2 * lines + 0.4)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (task, scored) in zip(panels, by_task.items(), strict=False):
        _draw_scores(axes, scored)
        axes.set_title(f"{task}, {report.tasks[task].metric_title} %", loc="left", fontsize=10)
    for axes in panels[len(by_task) :]:
        axes.set_visible(False)
    title = f"{report.recipe}: own heads, 95 % intervals"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return as_png(figure)


def _scored(report: RunReport) -> list[tuple[Row, Score]]:
    """Models whose heads have the task's score, the teacher first."""
    teacher = teacher_row(report)
    rows = [] if teacher is None else [teacher]
    rows += [row for row in report.rows if row.kind != "teacher"]
    scores = [(row, row.judgement.scores.get(report.metric or "")) for row in rows]
    return [(row, score) for row, score in scores if score is not None]


def _draw_probe(axes: Any, report: RunReport, rows: Sequence[Row]) -> None:
    values = [row.judgement.probed or 0.0 for row in rows]
    _bars(axes, rows, values, [percent(value) for value in values])
    has_classes = rows[0].judgement.probe_accuracy is not None
    name = "accuracy" if has_classes else report.metric
    axes.set_title(f"linear probe, {name} %", loc="left", fontsize=10)
    teacher = teacher_row(report)
    reference = teacher.judgement.probed if teacher else None
    highest = max([*values, reference or 0.0])
    # From zero, so that lengths of bars are proportional; correlations can be negative.
    axes.set_ylim(min(0.0, *values), min(1.08, highest * 1.15) if highest > 0 else None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    if reference is not None:
        axes.axhline(reference, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"teacher {percent(reference)}",
            (0, reference),
            xycoords=("axes fraction", "data"),
            xytext=(4, 4),
            textcoords="offset points",
            color=GREY,
            fontsize=9,
        )


def _bars(axes: Any, rows: Sequence[Row], values: Sequence[float], texts: Sequence[str]) -> None:
    highest = max(values)
    for x, (row, value, text) in enumerate(zip(rows, values, texts, strict=True)):
        axes.bar(x, value, width=0.62, color=_colour(row), zorder=2)
        # Inside the bar, where the teacher's line cannot cross it, unless the bar is too short.
        inside = value > 0.12 * highest
        axes.annotate(
            text,
            (x, value),
            xytext=(0, -4 if inside else 3),
            textcoords="offset points",
            ha="center",
            va="top" if inside else "bottom",
            fontsize=9,
            zorder=4,
            color="white" if inside and row.kind == "stage" else BLACK,
        )
    _name(axes, rows)


def _draw_scores(axes: Any, scored: Sequence[tuple[Row, Score]]) -> None:
    for x, (row, score) in enumerate(scored):
        spread = [[score.value - score.low], [score.high - score.value]]
        colour = _colour(row)
        axes.errorbar(x, score.value, yerr=spread, fmt="o", color=colour, capsize=4, linewidth=1.6)
        axes.annotate(
            percent(score.value),
            (x, score.value),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=BLACK,
        )
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.margins(y=0.15)
    _name(axes, [row for row, _ in scored])


def _colour(row: Row) -> str:
    return {"teacher": GREY, "stage": _STAGE}.get(row.kind, _BASELINE)


def _name(axes: Any, rows: Sequence[Row]) -> None:
    names = [
        NAMES.get(row.name, row.name).replace("_", "\n").replace(" ", "\n")
        + ("\n(reused)" if row.status == "reused" else "")
        for row in rows
    ]
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlim(-0.6, len(rows) - 0.4)
