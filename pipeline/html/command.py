"""`distill report`: a run as one HTML page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.export.subject import open_subject
from pipeline.html.findings import find
from pipeline.html.page import page
from pipeline.process.settings import read_settings
from pipeline.shipping.forms import export_of, rows_scored, ship
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint, store_for_look
from pipeline.store.files import write_file
from pipeline.tracking.pages import log_page
from schemas.core.errors import ConfigError
from schemas.results.manifest import RunReport

_PAGE = "report.html"


def write_report(
    run: str | None, to: Path, note: Callable[[str], None], store: Path | None = None, *, measured: bool = True
) -> RunReport:
    """Write the report of a run, replacing an older one in one step; MLflow gets a copy.

    Args:
        run: its name; None for the newest.
        to: the file to write.
        note: shows one line to the user.
        store: the store that has it.
        measured: export the student, and measure its forms, where the run did not.

    Raises:
        ConfigError: there is no such run, it stands for several runs, or it ended without a student.
        CheckpointError: a checkpoint is missing or damaged.
    """
    settings = read_settings(store)
    with store_for_look(settings.store) as opened:
        report = opened.read_report(run)
        if not isinstance(report, RunReport):
            raise ConfigError(f"{report.run} stands for several runs: name one of them, {_names(report.tasks)}")
        chosen = {row.name: row.checkpoint for row in report.rows if row.checkpoint and row.chosen}
        for checkpoint in chosen.values():
            opened.find(checkpoint.stage, checkpoint.digest)  # fetches what another machine made
        folders = {name: Path(checkpoint.path) for name, checkpoint in chosen.items()}
        stages = [row.name for row in report.rows if row.kind == "stage" and row.name in folders]
        if not stages:
            raise ConfigError(f"{report.run} ended without a student: there is nothing to report")
        subject = open_subject(folders[stages[-1]], None, opened.cache, most_rows=rows_scored(report))
        if measured and (report.shipping is None or not report.shipping.has_exports):
            shipped = ship(report, subject, opened.cache, note)
            report = report.model_copy(update={"shipping": shipped.shipping})
        export = export_of(subject, opened.cache, note) if measured else None
        findings = find(subject, folders, stages, export, opened.cache)
        points = {name: file for name in stages if (file := _points(opened, folders[name])) is not None}
        text = page(report, findings, points)
        write_file(to.absolute(), text.encode("utf-8"))
        if report.mlflow_run_id is not None:
            reason = log_page(settings, opened.points, report.mlflow_run_id, _PAGE, text)
            note(f"MLflow has no copy of the report: {reason}" if reason else f"MLflow's run has a copy, {_PAGE}")
    return report


def _points(store: CheckpointStore, checkpoint: Path) -> Path | None:
    """Return the file of a stage's logged values, if the store still has it."""
    _, manifest = open_checkpoint(checkpoint)
    file = store.points / f"{manifest.mlflow_run_id}.jsonl"
    return file if file.is_file() else None


def _names(tasks: dict[str, RunReport]) -> str:
    return ", ".join(report.run for report in tasks.values())
