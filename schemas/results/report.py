"""The report of a run with several tasks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.core.base import Frozen
from schemas.results.manifest import Row, RunReport


class TasksReport(Frozen):
    """Everything that the closing table of a run with several tasks shows."""

    run: str
    """Name of the run in its store."""
    recipe: str
    """The recipe's name."""
    shared: tuple[Row, ...]
    """Stages shared by all tasks, judged without a task."""
    tasks: dict[str, RunReport]
    """Reports of the finished tasks; the store has each under its own name as well."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Errors of the other tasks."""
    averages: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Averages over the tasks by name, for every model that has all of their scores."""
    seconds: float
    """Wall time of the whole run."""
    mlflow_run_id: str | None = None
    """The MLflow run that contains all others."""
    mlflow_experiment_id: str | None = None
    """Its MLflow experiment."""
    mlflow_view: bool = False
    """True if MLflow has a view of the tasks side by side, under the id of the run."""
    store: str
    """The store's folder."""
    resolved: dict[str, Any] = Field(default_factory=dict)
    """The recipe as it was run."""


AnyReport = RunReport | TasksReport
