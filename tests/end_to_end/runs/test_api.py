"""`pipeline.api`: runs from Python, without Prefect's server."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings
from transformers import AutoModelForSequenceClassification

from pipeline.api import read_recipe, read_run, run_recipe, stage_of
from schemas.core.errors import ConfigError, Interrupted
from stages.ports.plain import plain_ports
from stages.run import run_stage
from tests.support.command_line import ToyRun
from tests.support.toys import toy_recipe_dict


def test_a_run_needs_no_server_and_returns_the_student_its_scores_and_a_table(toy_run: ToyRun) -> None:
    changes = {"stages.task_specific.training.seed": 1, "baselines": ["bag_of_words"]}
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):  # where nothing answers
        result = run_recipe(toy_run.recipe, changes, store=toy_run.store)
    assert AutoModelForSequenceClassification.from_pretrained(result.student).config.id2label == {0: "bad", 1: "good"}
    assert result.teacher == Path(toy_run.report.rows[0].checkpoint.path) / "model"
    accuracy, teacher = result.scores["accuracy"], result.teacher_scores["accuracy"]
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert result.retained == accuracy.value / teacher.value
    assert [(row["stage"], row["status"]) for row in result.table] == [
        ("teacher", "reused"),
        ("general", "reused"),
        ("general_enhanced", "reused"),
        ("task_adaptive", "reused"),
        ("task_specific", ""),
        ("bag of words", ""),
    ]
    assert "| task_specific |" in result._repr_markdown_()
    assert str(result).splitlines()[1].split()[:2] == ["stage", "probe"]
    assert read_run(result.run, store=toy_run.store) == result


def test_stages_by_hand_are_those_of_the_flow(toy_run: ToyRun, tmp_path: Path) -> None:
    recipe, ports = read_recipe(toy_run.recipe), plain_ports(tmp_path)
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


def test_a_stop_keeps_the_state_and_the_same_call_continues(tmp_path: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in", steps=100_000)), "utf-8")
    store = tmp_path / "store"

    def press_once_it_trains() -> None:
        while not any("train/loss" in path.read_text("utf-8") for path in store.glob("points/**/*.jsonl")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_once_it_trains, daemon=True).start()
    with pytest.raises(Interrupted, match="the same call of run_recipe continues"):
        run_recipe(recipe, {"stages.general.training.seed": 5}, until_stage="general", store=store)
    assert list(store.glob("states/general-*/step-*"))
