"""One toy run of all four stages through the flow, shared by the tests that look at what it left behind."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.command_line import main
from schemas.results.manifest import RunReport
from tests.support.toys import toy_recipe_dict


@dataclass(frozen=True)
class ToyRun:
    """A finished run."""

    recipe: Path
    store: Path
    report: RunReport


class Distill:
    """`distill` in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = self.capfd.readouterr()
        return code, captured.out, captured.err

    def refused(self, *arguments: str | Path, code: int = 2) -> str:
        """The one message of a refusal."""
        got, _, message = self(*arguments)
        assert got == code, message
        assert "Traceback" not in message
        return " ".join(message.split())


@pytest.fixture
def distill(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Distill:
    return Distill(capfd, monkeypatch)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, prefect: None) -> ToyRun:
    """The toy recipe, run once from its YAML file."""
    from pipeline.flow import RunOptions, distill_flow

    folder = tmp_path_factory.mktemp("toy run")  # a path with a space, on purpose
    recipe = folder / "toy.yaml"
    content = toy_recipe_dict(folder / "in") | {"baselines": ["hard_labels", "bag_of_words"]}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    store = folder / "store"
    report = distill_flow(recipe=str(recipe), options=RunOptions(store=str(store)))
    return ToyRun(recipe, store, report)
