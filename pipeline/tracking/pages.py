"""Pages among the artifacts of a run that has ended."""

from __future__ import annotations

from pathlib import Path

from pipeline.process.settings import Settings
from pipeline.tracking.client import brief
from pipeline.tracking.server import Server


def log_page(settings: Settings, points: Path, run_id: str, name: str, text: str) -> str | None:
    """Store a text among the artifacts of a run, replacing an older one; return why MLflow did not take it.

    Args:
        settings: with MLflow's address.
        points: the store's folder of run files.
        run_id: MLflow's id of the run.
        name: name of the artifact.
        text: its content.
    """
    try:
        server = Server(settings.tracking_uri, settings.experiment, points, settings.artifacts, lambda *_: None)
        server.client.get_run(run_id)  # MLflow remembers a run's folder, and would write there without its server
        server.client.log_text(run_id, text, name)
    except Exception as error:  # drivers and transports raise what they like
        return brief(error)
    return None
