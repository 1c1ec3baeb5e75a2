"""The forms of a student beside its teacher: size, time, score and equal answers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.export.subject import Subject
from pipeline.export.writer import FP32, INT8, ModelWriter
from pipeline.latency.command import ratio
from pipeline.latency.measure import Candidate, measure
from pipeline.latency.texts import load_of
from pipeline.reporting.result_table import Column, ResultTable, TableRow
from pipeline.reporting.run_table import percent, with_interval
from schemas.results.export import ExportedModel
from schemas.results.latency import LatencyReport
from schemas.results.manifest import RunReport, Score
from stages.export.onnx_model import OPSET

_TEACHER, _STUDENT, _ONNX, _INT8 = "teacher", "student", "student, onnx", "student, onnx int8"


@dataclass(frozen=True)
class Shipping:
    """The forms of a student beside its teacher."""

    latency: LatencyReport
    """The teacher first."""
    scores: dict[str, Score | None]
    """By model."""
    same: dict[str, float | None]
    """Agreement with the student in torch, by model."""


def ship(report: RunReport, subject: Subject, teacher: Path, *, rounds: int = 5) -> Shipping:
    """Export a student into a folder that is removed again, and measure all of its forms.

    Args:
        report: the run.
        subject: its student.
        teacher: folder of the teacher's model.
        rounds: rounds in turn.

    Raises:
        DistillError: a form cannot be made or run.
    """
    scores: dict[str, Score | None] = {
        name: row.judgement.scores.get(report.metric or "")
        for name, kind in ((_TEACHER, "teacher"), (_STUDENT, "stage"))
        for row in report.rows
        if row.kind == kind and row.chosen
    }
    same: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="distill-ship-") as scratch:
        folder = Path(scratch)
        candidates = [Candidate(_TEACHER, teacher), Candidate(_STUDENT, subject.folder / "model")]
        for name, file, made in _exports(subject, folder):
            candidates.append(Candidate(name, folder / file))
            scores[name], same[name] = made.score, made.same_answers
        load = load_of(subject.checked, subject.sequences, batch=1, length=None)
        texts = f"the validation rows of {subject.task_name or 'the corpus'}"
        latency = measure(candidates, [load], [1], rounds=rounds, texts=texts)
    return Shipping(latency, scores, same)


def _exports(subject: Subject, folder: Path) -> list[tuple[str, str, ExportedModel]]:
    """Return name, path and check of every ONNX file; [] without the packages for them."""
    from importlib.util import find_spec

    if not all(find_spec(package) for package in ("onnx", "onnxruntime", "onnxscript")):
        return []
    writer = ModelWriter(subject, folder)
    return [
        (_ONNX, FP32, writer.fp32(OPSET)),
        (_INT8, INT8, writer.int8("dynamic", most_loss=float("inf"))),
    ]


def shipping_table(shipping: Shipping) -> ResultTable:
    """Return the table `what you ship`."""
    columns = (
        Column("what you ship", is_text=True),
        Column("MB"),
        Column("smaller"),
        Column("ms a text"),
        Column("95 % within"),
        Column("times faster"),
        Column("score %"),
        Column("same answers %"),
    )
    sizes = {model.name: model.size for model in shipping.latency.models}
    reference = sizes[_TEACHER]
    rows = []
    for latency in shipping.latency.latencies:
        rows.append(
            TableRow(
                (
                    latency.name,
                    f"{sizes[latency.name] / 1e6:.1f}",
                    f"{reference / sizes[latency.name]:.1f} times",
                    f"{latency.wall_ms:.2f}",
                    f"{latency.wall_ms_95:.2f}",
                    ratio(latency),
                    with_interval(shipping.scores.get(latency.name)),
                    percent(shipping.same.get(latency.name)),
                )
            )
        )
    return ResultTable(columns, tuple(rows))
