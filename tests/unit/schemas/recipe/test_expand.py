"""Expanded stages: the settings that each takes from the recipe, and its teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.recipes.shipped import read_recipe
from schemas.core.refs import FolderModel
from schemas.recipe.expand import (
    baseline_config,
    finished_teacher,
    made_teacher,
    stage_config,
    task_teachers,
    teacher_candidates,
    teacher_configs,
)
from schemas.recipe.recipe import Recipe
from schemas.recipe.teacher import Committee, FinetunedTeacher, located
from tests.support.toys import toy_recipe_dict

GOLDEN = Path(__file__).parent / "ernie_tiny_stages.json"
"""The stages of `ernie-tiny` as they were when stores of today were written: their digests cover these values."""


def test_the_stage_digests_of_ernie_tiny_stay_the_same() -> None:
    recipe = read_recipe("ernie-tiny")
    finished = {path: finished_teacher("/store/teacher/model", "0" * 64) for path in teacher_candidates(recipe)}
    teachers = task_teachers(recipe, finished)
    stages = [stage_config(recipe, stage, teachers) for stage in recipe.stages]
    configs = [*teacher_configs(recipe), *stages, baseline_config(recipe, tokens=1000)]
    dumped = {config.name: config.model_dump(mode="json", exclude={"start_text"}) for config in configs}
    assert dumped == json.loads(GOLDEN.read_text())
    assert not any(config.start_text for config in configs)  # which would be covered too


def test_labels_alone_may_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path) | {"baselines": ["hard_labels"]}
    last = Recipe.model_validate(content).stages[-1].training
    same = baseline_config(Recipe.model_validate(content), tokens=10).training
    assert same.optimizer == last.optimizer
    slower = baseline_config(Recipe.model_validate(content | {"hard_labels_learning_rate": 1e-5}), tokens=10).training
    assert slower.optimizer.learning_rate == 1e-5
    assert slower.optimizer.betas == last.optimizer.betas


@pytest.fixture
def committee(tmp_path: Path) -> Recipe:
    """Three teachers, one of them already fine-tuned, and a multi-task teacher."""
    content: dict[str, Any] = toy_recipe_dict(tmp_path)
    fine_tune = content["teacher"]["task_model"]
    content["teacher"]["others"] = [
        {"model": "./two", "task_model": fine_tune, "weight": 3},
        {"model": "./three", "task_model": {"kind": "given", "model": "./given"}},
    ]
    content["teacher"]["multi_task"] = {
        "tasks": {"one": content["task"], "two": content["task"]},
        "training": fine_tune["training"],
    }
    return Recipe.model_validate(content)


def folders(teachers: tuple[FinetunedTeacher, ...]) -> list[str]:
    models = [teacher.model for teacher in teachers]
    assert all(isinstance(model, FolderModel) for model in models)
    return [model.path for model in models if isinstance(model, FolderModel)]


def test_finished_teachers_are_matched_by_their_path_in_the_recipe(committee: Recipe) -> None:
    candidates = teacher_candidates(committee)
    assert {path: [config.name for config in group] for path, group in candidates.items()} == {
        "teacher": ["teacher"],
        "teacher.others[0]": ["other_teacher"],
        "teacher.multi_task": ["multi_task_teacher"],
    }
    finished = {path: finished_teacher(f"./{path}", f"{index:064x}") for index, path in enumerate(candidates)}
    # In any order of completion.
    teachers = task_teachers(committee, dict(reversed(finished.items())))
    assert folders(teachers.fine_tuned) == ["./teacher", "./teacher.others[0]", "./given"]
    assert teachers.multi_task == finished["teacher.multi_task"]
    stage = stage_config(committee, committee.stages[2], teachers)
    assert isinstance(stage.teacher, Committee)
    assert stage.teacher.weights == pytest.approx((0.2, 0.6, 0.2))


def test_only_teachers_that_are_finished_or_published_are_available(committee: Recipe) -> None:
    unlisted = finished_teacher("./other", "0" * 64)
    teachers = task_teachers(committee, {"teacher.others[0]": unlisted})
    assert folders(teachers.fine_tuned) == ["./other", "./given"]
    assert teachers.multi_task is None


def test_a_made_teacher_is_located_by_its_digest_and_manifests_of_before_are_read() -> None:
    digest = "5" * 64
    made, other = made_teacher("teacher", digest), made_teacher("other_teacher", digest)
    assert "path" not in made.model_dump_json()
    assert FinetunedTeacher.model_validate_json(made.model_dump_json()) == made
    both = Committee(members=(made, other), weights=(0.5, 0.5))
    with_folders = located(both, lambda stage, found: Path("/store") / f"{stage}-{found[:4]}")
    assert folders(with_folders.members) == ["/store/teacher-5555/model", "/store/other_teacher-5555/model"]
    before = {"kind": "fine_tuned", "model": {"kind": "folder", "path": "/old/teacher-5/model"}, "stage_digest": digest}
    assert located(FinetunedTeacher.model_validate(before), lambda *_: Path()).model == FolderModel(
        path="/old/teacher-5/model"
    )
    with pytest.raises(ValidationError, match="identified by stage_digest, which is missing"):
        FinetunedTeacher.model_validate({"model": {"kind": "stage", "stage": "teacher"}})
