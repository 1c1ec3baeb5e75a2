"""What README and docs/ show is executed: commands of `distill`, and Python programs, on the toy run's store.

Blocks below a mark `<!-- parsed: REASON -->` are only read; tests/unit/test_docs.py checks all of them.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from schemas.core.errors import ConfigError
from stages.ports.plain import plain_ports
from stages.run import run_stage
from tests.documentation import MEASUREMENTS, PAGES, Block, blocks, commands, title
from tests.support.command_line import Distill, ToyRun
from tests.support.paths import ROOT

ELSEWHERE = {name: f"test_{name}.py" for name in ("export", "init", "latency", "register", "report")}
ELSEWHERE["run"] = "test_command_line.py"
"""Tests of commands that take seconds even for toys, or whose rows are not those of the toy run."""
SHOWN = [block for page in PAGES if page not in MEASUREMENTS for block in blocks(page, "sh") if block.parsed is None]
PROGRAMS = [block for page in PAGES for block in blocks(page, "python") if block.parsed is None]


@pytest.fixture
def desk(toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it: `films.yaml`, data in `reviews`, and the store of a finished run."""
    (tmp_path / "films.yaml").symlink_to(toy_run.recipe)
    (tmp_path / "distill-store").symlink_to(toy_run.store)
    (tmp_path / "reviews").symlink_to(toy_run.recipe.parent / "in" / "task")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_STORE", str(toy_run.store))
    return tmp_path


def test_commands_do_what_the_pages_say(desk: Path, toy_run: ToyRun, distill: Distill) -> None:
    student = toy_run.report.rows[5].checkpoint
    assert student is not None
    names = {"RUN": toy_run.report.run, "CHECKPOINT": student.path}
    shown = {tuple(words): block.page for block in SHOWN for words in commands(block) if words[0] == "distill"}
    shown = {words: page for words, page in shown.items() if words[1] not in ELSEWHERE}
    assert {words[1] for words in shown} >= {"plan", "compare", "predict", "evaluate", "show", "schema", "gc"}
    for words, page in shown.items():
        code, out, err = distill(*(names.get(word, word) for word in words[1:]))
        assert code == 0, f"{title(page)}: {' '.join(words)}: {err}"
        assert out.strip()


def _keep_tracking_uri(patch: pytest.MonkeyPatch) -> None:
    """Let a program set MLflow's address for its own time; to set it back would keep it from the environment's."""
    patch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    patch.setenv("MLFLOW_TRACKING_URI", "")
    patch.delenv("MLFLOW_TRACKING_URI")


def test_programs_run_as_printed_and_without_prefect(
    desk: Path, toy_run: ToyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    student = toy_run.report.rows[5]
    assert student.checkpoint is not None
    pages: dict[Path, list[Block]] = {}
    for block in PROGRAMS:
        pages.setdefault(block.page, []).append(block)
    spaces: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        _keep_tracking_uri(stack.enter_context(pytest.MonkeyPatch.context()))
        stack.enter_context(temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}))  # where nothing answers
        for page, programs in pages.items():
            space = spaces[title(page)] = {"__name__": "__main__"}
            for block in programs:
                text = block.text.replace("RUN_ID", str(student.mlflow_run_id))
                text = text.replace("task_specific-DIGEST", Path(student.checkpoint.path).name)
                exec(compile(text, title(page), "exec"), space)
    assert "student.shape.num_leyers" in capsys.readouterr().out
    result = spaces["docs/python.md"]["result"]
    assert [(row["stage"], row["status"]) for row in result.table] == [
        ("teacher", "reused"),
        ("before", ""),
        ("general", "reused"),
        ("general_enhanced", "reused"),
        ("task_adaptive", "reused"),
        ("task_specific", ""),
        ("hard labels only", ""),
        ("bag of words", ""),
    ]
    assert result.retained == result.scores["accuracy"].value / result.teacher_scores["accuracy"].value
    assert "| task_specific |" in result._repr_markdown_()
    assert str(result).splitlines()[1].split()[:2] == ["stage", "probe"]


def test_stages_by_hand_are_those_of_the_flow(desk: Path, toy_run: ToyRun) -> None:
    from pipeline.api import read_recipe, stage_of

    recipe, ports = read_recipe("films.yaml"), plain_ports(desk)
    rows = {row.name: row.checkpoint for row in toy_run.report.rows if row.checkpoint}
    general = run_stage(stage_of(recipe, "general"), None, ports)
    enhanced = run_stage(stage_of(recipe, "general_enhanced", rows["teacher"]), general.checkpoint, ports)
    assert general.checkpoint.digest == rows["general"].digest
    assert enhanced.checkpoint.digest == rows["general_enhanced"].digest
    assert stage_of(recipe, "teacher").name == "teacher"
    with pytest.raises(ConfigError, match=r"toy has no stage generl \(did you mean general\?\); it has teacher, "):
        stage_of(recipe, "generl")
    with pytest.raises(ConfigError, match="task_specific: give the checkpoints of its fine-tuned teachers, 1 in"):
        stage_of(recipe, "task_specific")


def test_marks_name_tests_that_exist() -> None:
    marked = [block for page in PAGES for block in blocks(page, "sh", "python") if block.parsed]
    assert marked
    for name in ELSEWHERE.values():
        assert (Path(__file__).parent / name).is_file()
    for block in marked:
        for name in re.findall(r"test_\w+\.py", block.parsed or ""):
            assert list((ROOT / "tests").rglob(name)), f"{title(block.page)}: {name}"
