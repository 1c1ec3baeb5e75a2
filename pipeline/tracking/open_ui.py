"""The command that opens MLflow's UI."""

from __future__ import annotations

import shlex

from pipeline.process.programs import program
from pipeline.process.settings import read_settings
from pipeline.tracking.client import was_moved
from schemas.core.credentials import without_credentials


def mlflow_ui(store: str) -> tuple[str | None, str]:
    """The command that opens MLflow's UI on a store (None if a server runs), and the UI's address."""
    settings = read_settings(store)
    uri = settings.tracking_uri
    if not uri.startswith("sqlite:"):
        return None, without_credentials(uri)
    words = [program("mlflow"), "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", "5000"]
    command = shlex.join(words)
    if was_moved(uri, settings.artifacts):  # MLflow finds the artifacts only afterwards
        command = f"{shlex.join([program('distill'), 'sync', '--store', store])} && {command}"
    return command, "http://127.0.0.1:5000"
