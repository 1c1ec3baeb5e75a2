"""What a run with several tasks leaves behind: the report of each, what they share, and how they compare."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.core.base import Frozen
from schemas.results.manifest import Row, RunReport


class TasksReport(Frozen):
    """Everything the closing table of a run with several tasks says."""

    run: str
    """Name of the run in its store."""
    recipe: str
    """The recipe's name."""
    shared: tuple[Row, ...]
    """What was done once for all tasks; judged without any."""
    tasks: dict[str, RunReport]
    """The tasks that were finished, each with its own report, which the store has under its own name too."""
    failed: dict[str, str] = Field(default_factory=dict)
    """What each of the other tasks ended with."""
    averages: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Averages over the tasks by name, each for the teacher, the student and the baselines that have it."""
    seconds: float
    """Wall time of the whole run."""
    mlflow_run_id: str | None = None
    """The parent run of all."""
    mlflow_experiment_id: str | None = None
    """The experiment it stands in."""
    store: str
    """The store's folder."""
    resolved: dict[str, Any] = Field(default_factory=dict)
    """The recipe as it was run."""


AnyReport = RunReport | TasksReport
