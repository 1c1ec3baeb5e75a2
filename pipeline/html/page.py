"""The HTML report of a run: one file, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.html.figures import attention_figure, calibration_figure, shipping_figure, similarity_figure
from pipeline.html.findings import Findings
from pipeline.html.svg import as_svg
from pipeline.reporting.loss_curves import loss_curve_figure
from pipeline.reporting.result_table import Column, ResultTable, TableRow
from pipeline.reporting.run_table import percent, run_table, student_row, summary, teacher_row
from pipeline.reporting.score_figures import stage_figure
from pipeline.reporting.shipping_table import shipping_lines, shipping_table
from schemas.results.manifest import RunReport
from schemas.results.shipping import Shipping
from stages.device.processor import processor
from stages.versions import installed_versions

_PIXELS = 84
"""Pixels of an inch of a figure."""


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    svg: str
    text: str
    width: int
    """Pixels that it takes at most."""

    @classmethod
    def of(cls, figure: Any, name: str, title: str, text: str, *, scale: float = 1.0) -> Picture:
        """Return a figure as a picture; `name` is unique in the page."""
        return cls(as_svg(figure, name, title, text), text, round(scale * _PIXELS * figure.get_figwidth()))


@dataclass(frozen=True)
class Text:
    """Text that is unfolded on request."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """Short statements, shown as a list."""
    tables: list[ResultTable] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    details: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The sentence at the top."""

    text: str
    tone: str
    """`good`, `bad`, or `grey` where nothing can be said."""


def page(report: RunReport, findings: Findings, points: dict[str, Path]) -> str:
    """Return the report as HTML.

    Args:
        report: the run.
        findings: what was computed from its models.
        points: the files of each stage's logged values.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.html", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    seeds = {stage["training"]["seed"] for stage in report.resolved.get("stages", [])}
    return environment.get_template("report.html.j2").render(
        report=report,
        verdict=verdict(report, findings),
        seed=", ".join(map(str, sorted(seeds))) or "unknown",
        processor=processor(),
        sections=list(_sections(report, findings, points)),
    )


def verdict(report: RunReport, findings: Findings) -> Verdict:
    """Say first whether distillation was worth it: beside labels alone, then beside the teacher."""
    student, teacher = student_row(report), teacher_row(report)
    if student is None or student.judgement.task_metric is None:
        return Verdict("This run ended without a student that answers a task.", "grey")
    name = report.metric_title
    parts = [f"The student has {percent(student.judgement.task_metric)} % {name}."]
    if teacher is not None and teacher.judgement.task_metric is not None:
        kept = report.retained_above_chance
        share = "" if kept is None else f", so it kept {100 * kept:.1f} % of what the teacher has above guessing"
        parts.append(f"Its teacher has {percent(teacher.judgement.task_metric)} %{share}.")
    minus = report.minus_control or findings.minus_control
    if minus is None:
        parts.append(
            "The same student was not trained on labels alone, so this run cannot say what distillation added: for "
            "that the recipe needs baselines: [hard_labels]."
        )
        return Verdict(" ".join(parts), "grey")
    bounds = f"({100 * minus.low:+.1f} to {100 * minus.high:+.1f})"
    points = f"{100 * abs(minus.value):.1f} points {bounds}"
    if minus.low > 0:
        return Verdict(" ".join([f"Distillation helped: {points} above labels alone.", *parts]), "good")
    if minus.high < 0:
        return Verdict(" ".join([f"Labels alone are better: by {points}. Distillation cost accuracy.", *parts]), "bad")
    side = "above" if minus.value >= 0 else "below"
    return Verdict(" ".join([f"No difference from labels alone is shown: {points} {side}.", *parts]), "grey")


def _sections(report: RunReport, findings: Findings, points: dict[str, Path]) -> Iterator[Section]:
    if report.shipping is not None:
        yield _shipping(report, report.shipping)
    yield _stages(report, points)
    if findings.similarity:
        yield _layers(findings)
    if findings.calibrations or findings.disagreements:
        yield _answers(findings)
    yield _origin(report)


def _shipping(report: RunReport, shipping: Shipping) -> Section:
    figure = shipping_figure(shipping, report.metric_title)
    text = (
        "Score with its 95 % interval over processor time of one text; the area of a point grows with the size on disk."
    )
    return Section(
        "ship",
        "What you ship",
        [],
        shipping_lines(shipping, report.run),
        [shipping_table(shipping)],
        [Picture.of(figure, "ship", "Size, time and score", text)],
    )


def _stages(report: RunReport, points: dict[str, Path]) -> Section:
    pictures = [
        Picture.of(
            stage_figure(report),
            "stages",
            "Stages",
            "A linear probe of every stage, its latent loss, and the score of every trained head with its interval.",
        )
    ]
    for name, file in points.items():
        text = f"Training losses of {name} over its tokens, on a logarithmic scale, and the learning rate."
        pictures.append(Picture.of(loss_curve_figure(file, name), f"curve-{name}", name, text, scale=0.7))
    lines = [line for line in summary(report) if not line.startswith("checkpoint:")]
    return Section("stages", "Stages", [], lines, [run_table(report)], pictures)


def _layers(findings: Findings) -> Section:
    text = (
        "Nearness (linear CKA, in per cent) of every layer of the student to every layer of the teacher, before the "
        "first stage and after each, on validation texts; layer 0 is the embedding."
    )
    pictures = [Picture.of(similarity_figure(findings.similarity), "cka", "Layer by layer", text)]
    for index, view in enumerate(findings.attention):
        about = (
            f"Attention of the last blocks, averaged over heads, from each piece (row) to all: {' '.join(view.pieces)}"
        )
        pictures.append(Picture.of(attention_figure(view), f"attention-{index}", "Attention", about))
    return Section("layers", "Layer by layer", pictures=pictures)


def _answers(findings: Findings) -> Section:
    pictures = []
    if findings.calibrations:
        text = (
            "Share of right answers over the probability of the answer; on the dashed line a model is as sure as it is "
            "right."
        )
        figure = calibration_figure(findings.calibrations)
        pictures.append(Picture.of(figure, "calibration", "Calibration", text))
    tables = []
    if findings.disagreements:
        columns = tuple(Column(name, is_text=True) for name in ("text", "label", "teacher", "student"))
        rows = tuple(
            TableRow((found.text, found.label, found.teacher, found.student)) for found in findings.disagreements
        )
        title = f"The {len(rows)} validation texts on whose probabilities student and teacher differ most"
        tables.append(ResultTable(columns, rows, title))
    return Section("answers", "Answers", tables=tables, pictures=pictures)


def _origin(report: RunReport) -> Section:
    digests = [f"{row.name}: {row.checkpoint.digest}" for row in report.rows if row.checkpoint is not None]
    versions = [f"{name} {version}" for name, version in installed_versions().items()]
    card: Any = None if report.data is None else report.data.model_dump(mode="json", exclude_none=True)
    details = [
        Text("the recipe as it was run", yaml.safe_dump(report.resolved, sort_keys=False, allow_unicode=True)),
        Text("digests of the checkpoints", "\n".join(digests)),
        Text("versions", "\n".join(versions)),
    ]
    if card is not None:
        details.insert(0, Text("data card", yaml.safe_dump(card, sort_keys=False, allow_unicode=True)))
    return Section("origin", "Data and origin", details=details)
