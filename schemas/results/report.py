"""The report of several runs in one: of tasks, of seeds, of recipes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.core.base import Frozen
from schemas.core.errors import DistillError
from schemas.results.manifest import Row, RunReport


class GroupReport(Frozen):
    """Everything that the closing table of several runs shows."""

    run: str
    """Name of the run in its store."""
    recipe: str
    """The recipe's name; of several, their names."""
    shared: tuple[Row, ...]
    """Stages shared by all tasks, judged without a task."""
    tasks: dict[str, RunReport]
    """Reports of the finished runs by task, seed and recipe; the store has each under its own name as well."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Errors of the other runs."""
    averages: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Averages over the tasks by name, for every model that has all of their scores."""
    seconds: float
    """Wall time of all runs."""
    mlflow_run_id: str | None = None
    """The MLflow run that contains all others."""
    mlflow_experiment_id: str | None = None
    """Its MLflow experiment."""
    mlflow_view: bool = False
    """True if MLflow has a view of the tasks side by side, under the id of the run."""
    store: str
    """The store's folder."""
    resolved: dict[str, Any] = Field(default_factory=dict)
    """The recipe as it was run; empty for several recipes."""

    @property
    def is_spread(self) -> bool:
        """True if runs are summed up over seeds or recipes, not listed task by task."""
        runs = self.tasks.values()
        return any(run.seed is not None for run in runs) or any(run.recipe != self.recipe for run in runs)


class RunsFailed(DistillError):
    """Raised when some of several runs failed; the others were finished.

    Args:
        problems: one line per run that failed.
        report: what the others made.
    """

    def __init__(self, problems: list[str], report: GroupReport) -> None:
        self.problems, self.report = tuple(problems), report
        super().__init__("\n".join(problems))


AnyReport = RunReport | GroupReport
