"""Errors that Prefect retries, and those that it does not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.execution.prefect_tasks import _worth_retrying
from schemas.core.errors import DataError, ProcessLost


class Failed:
    """The state of a task run after an error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def aresult(self, *, raise_on_failure: bool) -> BaseException:
        """The error."""
        assert not raise_on_failure
        return self.error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("a file system that hiccups"), True),
        (RuntimeError("a device"), True),
        (AssertionError("which fails again"), False),
        (ProcessLost("a process of several"), True),
        (DataError("for a person to mend"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_transient_errors_are_retried_and_retries_are_logged(
    error: BaseException, *, again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task: Any = None
    run = SimpleNamespace(name="general")
    assert asyncio.run(_worth_retrying(task, run, Failed(error))) is again
    assert ("general failed" in caplog.text) is again
