"""`evaluate` scores a teacher only if it is the one that taught the student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.storage.sealed_folder import MANIFEST
from tests.support.command_line import Distill, ToyRun


@pytest.fixture
def teacher(toy_run: ToyRun, tmp_path: Path) -> Iterator[Path]:
    """The teacher's checkpoint, restored afterwards."""
    checkpoint = toy_run.report.rows[0].checkpoint
    assert checkpoint is not None
    assert checkpoint.stage == "teacher"
    folder, kept = Path(checkpoint.path), tmp_path / "kept"
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def evaluated(distill: Distill, toy_run: ToyRun) -> list[str]:
    """Return the evaluated models."""
    last = toy_run.report.rows[5].checkpoint
    assert last is not None
    task = toy_run.recipe.parent / "in" / "task"
    code, out, err = distill("evaluate", last.path, "--task", task, "--store", toy_run.store, "--json")
    assert code == 0, err
    return [model["name"] for model in json.loads(out)["models"]]


@pytest.mark.parametrize("harm", ["weights", "another", "manifest"])
def test_a_changed_teacher_is_not_scored_and_reported(
    harm: str, distill: Distill, toy_run: ToyRun, teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = teacher / "model" / "model.safetensors"
    if harm == "weights":
        content = bytearray(weights.read_bytes())
        content[-8:] = bytes(8)
        weights.write_bytes(bytes(content))
        named = "model.safetensors"
    elif harm == "manifest":
        (teacher / MANIFEST).unlink()
        named = "has no manifest.json"
    else:
        checkpoint = toy_run.report.rows[2].checkpoint
        assert checkpoint is not None
        shutil.rmtree(teacher)
        shutil.copytree(checkpoint.path, teacher)
        named = "does not hold the model that the student learned from"
    assert evaluated(distill, toy_run) == ["task_specific"]
    assert "the teacher is left out: " in caplog.text
    assert named in caplog.text


def test_an_unchanged_teacher_is_scored(distill: Distill, toy_run: ToyRun) -> None:
    assert evaluated(distill, toy_run) == ["task_specific", "teacher"]
