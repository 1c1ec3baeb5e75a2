"""Notes of a plan on its teachers: the rows that decide between candidates, and their tokens beside the student's."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.planning.teacher_notes import rows_of_choice, teacher_notes
from schemas.recipe.expand import TaskTeachers, finished_teacher, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from tests.support.manifests import DIGEST
from tests.support.toys import toy_recipe_dict


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return toy_recipe_dict(tmp_path_factory.mktemp("toy"))


def recipe_with(content: dict[str, Any], training: dict[str, Any] | None = None, **task_model: Any) -> Recipe:
    original = content["teacher"]["task_model"]
    changed = original | {"training": original["training"] | (training or {})} | task_model
    return Recipe.model_validate(content | {"teacher": content["teacher"] | {"task_model": changed}})


def stages_of(recipe: Recipe, of_teacher: int, of_stage: int) -> list[tuple[str | None, StageConfig, int]]:
    teachers = TaskTeachers(fine_tuned=(finished_teacher("teacher", DIGEST),))
    stages = [(None, config, of_teacher) for config in teacher_configs(recipe)]
    return [*stages, *((None, stage_config(recipe, stage, teachers), of_stage) for stage in recipe.stages)]


def test_several_candidates_without_a_selection_are_chosen_on_held_out_rows(content: dict[str, Any]) -> None:
    recipe = recipe_with(content, seeds=3)
    configs = teacher_configs(recipe)
    for config in configs:
        selection = config.training.selection
        assert selection is not None
        assert (selection.rows, selection.patience) == ("held_out", None)
        assert rows_of_choice(config) == "training rows held out"
    (note,) = teacher_notes(stages_of(recipe, 8000, 2000))
    assert note == "teacher: the best of 3 candidates is chosen by accuracy on training rows held out"


def test_one_candidate_keeps_its_last_weights(content: dict[str, Any]) -> None:
    (config,) = teacher_configs(recipe_with(content))
    assert config.training.selection is None
    assert [*teacher_notes(stages_of(recipe_with(content), 8000, 2000))] == []


def test_a_choice_on_reported_rows_is_kept_and_named(content: dict[str, Any]) -> None:
    recipe = recipe_with(content, {"selection": {"rows": "validation"}}, grid={"dropout": [0, 0.1]})
    assert {config.training.selection.rows for config in teacher_configs(recipe)} == {"validation"}  # type: ignore[union-attr]
    (note,) = teacher_notes(stages_of(recipe, 8000, 2000))
    assert "the best of 2 candidates is chosen by accuracy on the validation rows, which are reported too" in note
    assert "set training.selection.rows to held_out" in note


def test_a_teacher_of_fewer_tokens_than_its_student_is_noted_with_both_numbers(content: dict[str, Any]) -> None:
    (note,) = teacher_notes(stages_of(recipe_with(content), 7000, 2000))
    assert "teacher: fine-tuned on 7 k tokens, while its student's stages read 8 k" in note
    # A step more or less is no reason to change anything.
    assert not [*teacher_notes(stages_of(recipe_with(content), 7999, 2000))]
    (note,) = teacher_notes(stages_of(recipe_with(content), 1_200_000, 700_100))
    assert "fine-tuned on 1.20 M tokens, while its student's stages read 2.80 M" in note
    assert note.endswith("teacher.task_model.training.duration=2801k tokens")


def test_every_task_has_its_teacher_and_its_share_of_common_stages(content: dict[str, Any]) -> None:
    general, *others = [stage for stage in stages_of(recipe_with(content), 0, 1000) if stage[1].student is not None]
    (teacher,) = teacher_configs(recipe_with(content))
    stages = [general]
    for task, tokens in (("a", 3000), ("b", 4000)):
        stages += [(task, teacher, tokens), *((task, config, of_stage) for _, config, of_stage in others)]
    notes = [*teacher_notes(stages)]
    assert [note.split(":")[0] for note in notes] == ["a/teacher"]
