"""A member of a run, as an engine hands it on, and its answer."""

from __future__ import annotations

import logging
from typing import Any

from schemas.core import errors
from schemas.core.base import Frozen
from schemas.core.errors import ConfigError, DistillError, ProcessLost
from schemas.recipe.recipe import Variant
from schemas.results.manifest import Row, RunReport

log = logging.getLogger(__name__)


PROGRAM = "pipeline.member"
"""Module that runs a member."""


class Member(Frozen):
    """One task and seed of a run with several, or what several of them share."""

    name: str
    """Name of its report."""
    task: str | None
    seed: int | None
    run_above: str
    """Key of the MLflow run that its own is shown under."""
    is_shared: bool = False
    """True for what several members share: teachers, and stages without a task. It has no report."""

    @property
    def variant(self) -> Variant:
        """Its task and seed among several."""
        return Variant(self.task, self.seed)

    @property
    def title(self) -> str:
        """Name in messages, and of its runs in MLflow and Prefect."""
        name = self.variant.name
        return " of ".join(filter(None, ("shared", name))) if self.is_shared else str(name)


class MemberRequest(Frozen):
    """Everything that the process of a member needs to know."""

    recipe: dict[str, Any]
    """The recipe of all members, in full."""
    options: dict[str, Any]
    """The run's `RunOptions`."""
    member: Member


class MemberAnswer(Frozen):
    """Result of a member."""

    report: RunReport | None = None
    """Its report; null for what several share, and after an error."""
    rows: tuple[Row, ...] = ()
    """Rows of stages that several tasks share."""
    error: str | None = None
    """Class of the error that ended it; null without one."""
    problems: tuple[str, ...] = ()
    """Lines of that error's message."""

    @property
    def is_unexpected(self) -> bool:
        """True after an error that is none of ours."""
        kind = getattr(errors, self.error or "", None)
        return self.error is not None and not (isinstance(kind, type) and issubclass(kind, DistillError))

    def result(self) -> RunReport | tuple[Row, ...]:
        """Return the report, or the shared rows.

        Raises:
            DistillError: of the kind that ended the member; `ProcessLost` for one that nobody expected.
        """
        if self.error is None:
            return self.rows if self.report is None else self.report
        text = "\n".join(self.problems)
        if self.is_unexpected:
            raise ProcessLost(f"{self.error}: {text}")
        kind: type[DistillError] = getattr(errors, self.error)
        raise ConfigError(self.problems) if kind is ConfigError else kind(text)


def answer_of(error: BaseException) -> MemberAnswer:
    """Return the answer of a member that an error ended."""
    if not isinstance(error, DistillError):
        log.error("a run failed unexpectedly", exc_info=error)
    return MemberAnswer(error=type(error).__name__, problems=tuple(getattr(error, "problems", (str(error),))))
