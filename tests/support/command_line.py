"""The command line in this process, and the results of a finished toy run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.command_line import main
from schemas.results.manifest import RunReport


@dataclass(frozen=True)
class ToyRun:
    """A finished run of the toy recipe."""

    recipe: Path
    store: Path
    report: RunReport


class Distill:
    """`distill` in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Run the command and return its exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = self.capfd.readouterr()
        return code, captured.out, captured.err

    def refused(self, *arguments: str | Path, code: int = 2) -> str:
        """Return the one message of a command that must end with exit code `code`."""
        ended, _, message = self(*arguments)
        assert ended == code, message
        assert "Traceback" not in message
        return " ".join(message.split())
