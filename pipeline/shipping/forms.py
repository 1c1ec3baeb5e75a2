"""The forms of a student beside its teacher: size, time, score and equal answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.export.export import Wanted, fill
from pipeline.export.manifest import read_manifest
from pipeline.export.programs import transformers_program
from pipeline.export.subject import Subject
from pipeline.latency.in_process import measure_here
from pipeline.latency.measure import Candidate
from pipeline.latency.texts import load_of
from pipeline.reporting.run_table import student_row, teacher_row
from schemas.core.base import digest_of
from schemas.core.errors import DistillError
from schemas.core.kinds import MultipleChoice
from schemas.recipe.recipe import Recipe
from schemas.results.latency import Latency
from schemas.results.manifest import CheckpointRef, Manifest, Row, RunReport
from schemas.results.score import Score
from schemas.results.shipping import Form, Shipping
from stages.device.processor import processor_kind
from stages.models.encoders import locate
from stages.storage.format_versions import EXPORT_VERSION
from stages.storage.sealed_folder import is_whole, make_whole

TEACHER, STUDENT = "teacher", "student"
_NAMES = {"fp32": "student, ONNX", "int8": "student, ONNX int8"}
NEEDED = ("onnx", "onnxruntime", "onnxscript")
ROUNDS = 5
_EXPORTED = Wanted(onnx=True, int8="dynamic", most_loss=float("inf"))
"""A table of forms says what 8-bit integers cost, and refuses nothing."""


@dataclass(frozen=True)
class Shipped:
    """The forms of a run's student, and its export."""

    shipping: Shipping
    export: Path | None
    """Folder of the export; None without one."""


def ship(
    report: RunReport, subject: Subject, cache: Path, note: Callable[[str], None], *, exported: bool = True
) -> Shipped:
    """Measure the forms of a run's student.

    Args:
        report: the run.
        subject: its student.
        cache: folder of tokenised data and of exports, each of which is made once.
        note: shows one line to the user.
        exported: False for the models in torch alone.

    Raises:
        DistillError: the student or its teacher cannot be run.
    """
    folder = export_of(subject, cache, note) if exported else None
    answering = [
        _Answering(Candidate(TEACHER, teacher_folder(report)), _score(report, teacher_row(report))),
        _Answering(Candidate(STUDENT, subject.folder / "model"), _score(report, student_row(report))),
    ]
    if folder is not None:
        for model in read_manifest(folder).models:
            candidate = Candidate(_NAMES[model.number_format], folder / model.file)
            answering.append(_Answering(candidate, model.score, model.same_answers))
    load = load_of(subject.checked, subject.sequences, batch=1, length=None)
    latencies, is_busy = measure_here([each.candidate for each in answering], load, rounds=ROUNDS)
    forms = tuple(each.form(latency) for each, latency in zip(answering, latencies, strict=True))
    texts = f"the validation rows of {subject.task_name}" if subject.task_name else "the corpus, held out"
    shipping = Shipping(
        forms=forms,
        texts=texts,
        rounds=ROUNDS,
        processor=processor_kind(),
        is_busy=is_busy,
        example=_example(subject),
        python=_program(subject),
    )
    return Shipped(shipping, folder)


def _example(subject: Subject) -> dict[str, str] | None:
    """Return a row to answer; None without a head, or where a row has choices beside its text and its pair."""
    scorer = subject.scorer
    return None if scorer is None or isinstance(scorer.kind.config, MultipleChoice) else scorer.example


def _program(subject: Subject) -> str:
    example = _example(subject)
    return transformers_program(
        None if subject.scorer is None else subject.scorer.kind.config,
        json.dumps(str(subject.folder / "model"), ensure_ascii=False)[1:-1],
        is_pair=example is not None and "text_pair" in example,
        example=example,
    ).code


@dataclass(frozen=True)
class _Answering:
    """A form before its time is measured."""

    candidate: Candidate
    score: Score | None
    same_answers: float | None = None

    def form(self, latency: Latency) -> Form:
        return Form(
            name=self.candidate.name,
            size=self.candidate.size,
            latency=latency,
            score=self.score,
            same_answers=self.same_answers,
        )


def _score(report: RunReport, row: Row | None) -> Score | None:
    return None if row is None else row.judgement.scores.get(report.metric or "")


def teacher_folder(report: RunReport) -> Path:
    """Return the folder of the teacher's model: the fine-tuned one, or the published one."""
    row = teacher_row(report)
    if row is not None and row.checkpoint is not None:
        return Path(row.checkpoint.path) / "model"
    return locate(Recipe.model_validate(report.resolved).pretrained)


def can_export() -> bool:
    """Return whether the packages for ONNX files are installed."""
    return all(find_spec(package) for package in NEEDED)


def rows_scored(report: RunReport) -> int:
    """Return the most validation rows that a run scores: its exports are scored on the same ones."""
    return Recipe.model_validate(report.resolved).evaluation.max_rows


def export_folder(student: Manifest | CheckpointRef, cache: Path, rows: int) -> Path:
    """Return the folder of a student's export in the cache, which need not exist yet.

    Args:
        student: the student.
        cache: folder of exports.
        rows: most validation rows on which its files are scored.
    """
    identity = {
        "checkpoint": student.digest,
        "version": EXPORT_VERSION,
        "processor": processor_kind(),
        "rows": rows,
    }
    return cache / "exports" / f"{student.stage}-{digest_of(identity)[:16]}"


def export_of(subject: Subject, cache: Path, note: Callable[[str], None]) -> Path | None:
    """Return the student's export in the cache, made if need be; None without the packages, or if it cannot be made.

    A run is whole without its export, so the reason is told and nothing is raised.
    """
    if not can_export():
        return None
    folder = export_folder(subject.manifest, cache, subject.most_rows)
    if not is_whole(folder):
        note(f"{subject.manifest.stage}: exporting to ONNX and 8-bit integers")
        try:
            make_whole(folder, lambda beside: fill(subject, None, beside, STUDENT, _EXPORTED))
        except DistillError as error:
            note(f"{subject.manifest.stage} stays in torch: {error}")
            return None
    return folder
