"""Forms of a student that an earlier run measured, kept in the cache: a run that trains nothing ends at once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pipeline.export.subject import open_subject
from pipeline.latency.measure import machine_is_busy
from pipeline.reporting.run_table import student_row, teacher_row
from pipeline.shipping.forms import (
    NEEDED,
    ROUNDS,
    Shipped,
    can_export,
    export_folder,
    rows_scored,
    ship,
    teacher_folder,
)
from schemas.core.base import digest_of
from schemas.core.regular_files import read_regular
from schemas.results.manifest import CheckpointRef, RunReport
from schemas.results.shipping import Shipping
from stages.device.processor import processor_kind
from stages.models.encoders import folder_digest
from stages.storage.format_versions import EXPORT_VERSION
from stages.storage.sealed_folder import is_whole, make_whole, move_away

_FILE = "shipping.json"


def shipped_by(report: RunReport, cache: Path, note: Callable[[str], None], *, exported: bool) -> Shipped | None:
    """Return the forms of a run's student; None for a run without one.

    They are measured unless the same forms were measured on a processor of this kind before. Times of a busy machine
    are measured again once it is idle.

    Args:
        report: the run.
        cache: folder of tokenised data, of exports, and of forms that were measured.
        note: shows one line to the user.
        exported: False for the models in torch alone.

    Raises:
        DistillError: the student or its teacher cannot be run.
    """
    row = student_row(report)
    if row is None or row.checkpoint is None:
        return None
    rows = rows_scored(report)
    folder = cache / "shipping" / _digest(report, row.checkpoint, exported=exported)[:16]
    export = export_folder(row.checkpoint, cache, rows) if exported and can_export() else None
    if is_whole(folder) and (export is None or is_whole(export)):
        shipping = Shipping.model_validate_json(read_regular(folder / _FILE))
        if not shipping.is_busy or machine_is_busy():
            return Shipped(shipping.model_copy(update={"is_kept": True}), export)
    subject = open_subject(Path(row.checkpoint.path), None, cache, most_rows=rows)
    shipped = ship(report, subject, cache, note, exported=exported)
    if shipped.export == export:

        def fill(beside: Path) -> None:
            (beside / _FILE).write_text(shipped.shipping.model_dump_json(), encoding="utf-8")

        if folder.exists():
            move_away(folder)
        make_whole(folder, fill)
    return shipped


def _digest(report: RunReport, student: CheckpointRef, *, exported: bool) -> str:
    """Digest of everything that the table shows or depends on."""
    scores = [
        row and row.judgement.scores.get(report.metric or "") for row in (student_row(report), teacher_row(report))
    ]
    packages = ("torch", "transformers", *(NEEDED if exported and can_export() else ()))
    return digest_of(
        {
            "student": student.model_dump(mode="json"),
            "teacher": folder_digest(teacher_folder(report)),
            "scores": [score and score.model_dump(mode="json") for score in scores],
            "exported": exported,
            "processor": processor_kind(),
            "packages": {name: version(name) for name in packages},
            "rounds": ROUNDS,
            "version": EXPORT_VERSION,
        }
    )
