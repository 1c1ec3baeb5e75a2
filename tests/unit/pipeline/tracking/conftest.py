"""Tracking on one real MLflow database per module, and helpers to read it back."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.client import load_mlflow, make_database
from pipeline.tracking.session import Tracking


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, whose creation takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with warnings.catch_warnings(action="ignore"):  # MLflow and SQLAlchemy disagree about deprecations on first use
        make_database(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> str:
    """One MLflow database for the module; each test has its own experiment."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    shutil.copyfile(empty_database, path)
    return f"sqlite:///{path}"


@pytest.fixture(autouse=True)
def no_mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the caller's MLflow settings, and undo those of load_mlflow."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def opened(database: str, tmp_path: Path) -> Iterator[Tracking]:
    """Tracking on the database, with an experiment named after the test's folder."""
    tracking = Tracking(database, tmp_path.name, tmp_path / "points", artifacts=tmp_path / "artifacts")
    yield tracking
    tracking.close()


@pytest.fixture
def client(database: str) -> Any:
    """The client of MLflow, to read values back."""
    with warnings.catch_warnings():
        # MLflow and SQLAlchemy disagree about deprecations on first use.
        warnings.simplefilter("ignore")
        return load_mlflow().MlflowClient(tracking_uri=database)
