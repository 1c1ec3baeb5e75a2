"""A few cases of each campaign of `make torture`, and earlier findings of the campaigns."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.core.errors import ConfigError, DataError
from schemas.data.tasks import FileTask
from stages.data.tasks.load import load_task
from tests.torture.changes import change_campaign
from tests.torture.collecting import collect_campaign
from tests.torture.flips import HARMS, flip_campaign
from tests.torture.hostile import bomb_campaign, special_campaign
from tests.torture.inputs import Inputs, file_campaign, override_campaign, recipe_campaign


def test_damage_to_any_file_is_detected(tmp_path: Path) -> None:
    result = flip_campaign(tmp_path, cases=60)
    assert result.losses == []
    assert sum(result.cases.values()) == 60
    assert {name.split(", ")[1] for name in result.cases} == set(HARMS)


def test_gc_removes_nothing_that_a_run_needs(tmp_path: Path) -> None:
    result = collect_campaign(tmp_path, cases=24)
    assert result.losses == []
    assert result.runs + result.killed >= 24
    assert min(result.runs, result.killed, result.trained, result.reused, result.removed) > 0


def test_a_stage_uses_the_inputs_of_its_start_or_is_refused(tmp_path: Path) -> None:
    result = change_campaign(tmp_path, cases=6)
    assert not result.losses
    assert result.cases.total() == 6


def test_damaged_recipes_are_loaded_or_refused(tmp_path: Path) -> None:
    result = recipe_campaign(tmp_path, cases=60)
    assert result.losses == []
    assert result.refused > 40
    assert result.commands == 10
    assert len(result.kinds) > 6


def test_random_overrides_are_applied_or_refused(tmp_path: Path) -> None:
    result = override_campaign(tmp_path, cases=60)
    assert result.losses == []
    assert result.refused > 40
    assert result.commands == 10


def test_damaged_data_files_are_loaded_or_refused(tmp_path: Path) -> None:
    result = file_campaign(tmp_path, cases=100)
    assert result.losses == []
    assert result.refused > 40
    assert result.loaded > 2
    assert result.commands == 10
    assert len(result.kinds) > 10


def test_parquet_bombs_are_refused_in_tens_of_megabytes(tmp_path: Path) -> None:
    result = bomb_campaign(tmp_path, cases=6)
    assert result.losses == []
    assert result.refused > 3


def test_special_files_are_refused_in_every_location(tmp_path: Path) -> None:
    result = special_campaign(tmp_path, cases=30)
    assert result.losses == []
    assert result.refused == 30


def test_a_campaign_detects_planted_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.torture.flips.verify", lambda _: None)
    assert len(flip_campaign(tmp_path / "flips", cases=20).losses) == 5


def _fill(memory: mmap.mmap) -> None:
    memory[:] = bytes(len(memory))


def _refuse(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("load", "output"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: _refuse(DataError("")), "no clean message"),
        (lambda: _refuse(DataError("task: two\nlines; mend them")), "no clean message"),
        (lambda: _refuse(DataError("it is bad; mend it")), "no place"),
        (lambda: _refuse(DataError("task.train bad")), "no remedy"),
        (lambda: _refuse(DataError(f"task.train: {'x' * 5000}; mend it")), "a message of 5,0"),
        (lambda: _refuse(ConfigError([])), "without a message"),
        (lambda: _fill(mmap.mmap(-1, 120 << 20)), " MiB"),
        (lambda: time.sleep(0.2), "0.2 s"),
    ],
)
def test_a_campaign_detects_every_kind_of_loss(
    load: Callable[[], Any], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.torture.inputs.LONGEST_SECONDS", 0.2)
    monkeypatch.setattr("tests.torture.inputs.MOST_BYTES", 100 << 20)
    result = Inputs()
    result.try_one("a case", load)
    (loss,) = result.losses
    assert output in loss


def test_a_campaign_names_the_smallest_case_and_executed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(source: str, _: object = ()) -> None:
        file = Path(source)
        if file.is_file() and "canary" in file.read_text(encoding="utf-8", errors="replace"):
            (tmp_path / "canary").touch()
            raise KeyError("canary")

    monkeypatch.setattr("tests.torture.inputs.dump_recipe", lambda _: "name: x\n")
    monkeypatch.setattr("tests.torture.inputs.read_recipe", careless)
    losses = recipe_campaign(tmp_path, cases=60, commands=0).losses
    assert "KeyError" in losses[0]
    assert losses[-1] == "an input was executed"
    assert "the smallest of them: [recipe.yaml (tags): b'name: x" in losses[-2]


def test_an_unexpected_exit_code_is_detected(tmp_path: Path) -> None:
    result = Inputs()
    result.command("a case", "plan", str(tmp_path / "none.yaml"), codes=(0,))
    assert "exit code 2" in result.losses[0]


@pytest.mark.parametrize(
    ("name", "content", "output"),
    [
        ("deep.jsonl", b'{"text_a": ' + b"[" * 50_000, "line 1 is nested too deeply"),
        (
            "long.csv",
            b'text_a,label\n"' + b"x" * 1_500_000 + b"\n" + b"x" * 1_500_000 + b'",no\n',
            r"lines 2 to 3 \(row 1\): a field is too long",
        ),
        ("mark.csv", b"\xef\xbb\xbf", "is empty; give a file with rows"),
        ("open.csv", b'text_a,label\n"' + b"x\n" * 100_000, r"lines 2 to 100001 \(row 1\): .* never closed"),
    ],
)
def test_inputs_found_by_campaigns_are_refused_by_line(name: str, content: bytes, output: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=output):
        load_task(FileTask(train=str(file), validation=str(file)), tmp_path / "cache")
