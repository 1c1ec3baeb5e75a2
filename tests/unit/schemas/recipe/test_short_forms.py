"""Short forms of a recipe: the long form that each stands for, and the messages about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from schemas.core.errors import ConfigError
from schemas.loading.dump import dump_recipe, recipe_schema
from schemas.loading.load import load_recipe
from schemas.recipe.recipe import Recipe
from schemas.recipe.short_forms import STAGE_TRAINING, TEACHER_TRAINING
from schemas.recipe.stage import STAGE_ORDER
from schemas.recipe.teacher import AlreadyFineTuned

SHORT = """\
name: films
teacher: ./my-teacher
student: {shape: {num_layers: 3}, start: teacher_layers}
task: {kind: files, train: train.csv, validation: dev.csv, text: review, label: sentiment}
general_corpus: ./texts
stages: [general, general_enhanced, task_adaptive, task_specific]
"""


def long_form() -> dict[str, Any]:
    short: dict[str, Any] = yaml.safe_load(SHORT)
    return short | {
        "description": "",
        "teacher": {
            "model": {"kind": "folder", "path": "./my-teacher"},
            "task_model": {"kind": "fine_tune", "training": dict(TEACHER_TRAINING)},
        },
        "student": {
            "shape": dict.fromkeys(("hidden_size", "num_attention_heads", "intermediate_size")) | {"num_layers": 3},
            "start": {"kind": "teacher_layers"},
        },
        "general_corpus": {"sources": [{"kind": "files", "paths": ["./texts"]}]},
        "stages": [{"name": name, "training": dict(STAGE_TRAINING[name])} for name in STAGE_ORDER],
    }


def problems(tmp_path: Path, text: str, *overrides: str) -> tuple[str, ...]:
    path = tmp_path / "films.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides, recipes_folder=None)
    return tuple(problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems)


def test_a_short_recipe_is_its_long_form_and_its_dump_loads_back(tmp_path: Path) -> None:
    path = tmp_path / "films.yaml"
    path.write_text(SHORT, encoding="utf-8")
    recipe = load_recipe(path, recipes_folder=None)
    assert recipe == Recipe.model_validate(yaml.safe_load(SHORT)) == Recipe.model_validate(long_form())
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path, recipes_folder=None) == recipe


def test_a_change_inside_a_short_form_keeps_its_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "films.yaml"
    path.write_text(SHORT, encoding="utf-8")
    changes = ("stages.task_specific.training.duration=2 epochs", "teacher.task_model.training.seed=3")
    recipe = load_recipe(path, changes, recipes_folder=None)
    changed = long_form()
    changed["stages"][3]["training"]["duration"] = "2 epochs"
    changed["teacher"]["task_model"]["training"]["seed"] = 3
    assert recipe == Recipe.model_validate(changed)


def test_a_teacher_in_short_is_fine_tuned_only_where_a_stage_needs_that_and_a_tuned_one_never() -> None:
    short = yaml.safe_load(SHORT)
    assert Recipe.model_validate(short | {"stages": ["general"]}).teacher.task_model is None
    enhanced = {"name": "general_enhanced", "teacher": "multi_task"}
    with pytest.raises(ValueError, match="multi-task teacher"):
        Recipe.model_validate(short | {"stages": [enhanced]})
    teacher = Recipe.model_validate(short | {"teacher": {"fine_tuned": "package:tuned"}}).teacher
    assert isinstance(teacher.task_model, AlreadyFineTuned)
    assert teacher.task_model.model == teacher.model
    assert teacher.model.kind == "package"


@pytest.mark.parametrize(
    ("old", "new", "overrides", "expected"),
    [
        ("[general,", "[genral,", (), "films.yaml:6: stages[0].name: 'genral' is unknown (did you mean general?)"),
        (", start: teacher_layers", "", (), "films.yaml:3: student.shape.hidden_size: is missing (Width of the hidden"),
        ("./my-teacher", "5", (), "films.yaml:2: teacher: 5 is not allowed; expected a mapping of keys to values (Tea"),
        ("general_corpus: ./texts\n", "", (), "films.yaml:1: general_corpus: stage general reads a general corpus; na"),
        ("", "", ("teacher=not a model",), "--set teacher=not a model: teacher.model.id: 'not a model' does not have"),
        ("", "", ("student.start=random",), "--set student.start=random: student.shape.hidden_size: is missing"),
        (
            "num_layers: 3",
            "num_layers: 3, hidden_size: 384, num_attention_heads: 12",
            ("student.shape.hidden_size=400",),
            "--set student.shape.hidden_size=400: student.shape: 12 attention heads do not divide a hidden_size of 400",
        ),
        (
            "num_layers: 3",
            "num_layers: 3, hidden_size: 385, num_attention_heads: 12",
            ("student.shape.num_layers=4",),
            "films.yaml:3: student.shape: 12 attention heads do not divide a hidden_size of 385",
        ),
        (
            "",
            "",
            ("stages.general.training.learning_rate=3e-4",),
            "--set stages.general.training.learning_rate=3e-4: stages[0].training.learning_rate: unknown key (did you "
            "mean optimizer.learning_rate?); allowed: duration,",
        ),
    ],
)
def test_mistakes_in_short_forms_name_what_was_written(
    tmp_path: Path, old: str, new: str, overrides: tuple[str, ...], expected: str
) -> None:
    assert problems(tmp_path, SHORT.replace(old, new), *overrides)[0].startswith(expected)


def test_a_recipe_one_letter_away_is_suggested_before_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whose own name may be too long for a message
    (tmp_path / "films.yaml").write_text(SHORT, encoding="utf-8")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "file.yaml").write_text(SHORT, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"film\.yaml'.*\(did you mean films\.yaml\?\); shipped: file"):
        load_recipe("film.yaml", recipes_folder=shipped)


@pytest.mark.parametrize(
    "teacher", ["./my-teacher", {"fine_tuned": "./tuned"}, {"model": "a/b", "task_model": "fine_tune"}]
)
def test_the_schema_for_editors_accepts_short_and_long_forms_and_no_misspelt_stage(teacher: Any) -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())
    for content in (yaml.safe_load(SHORT) | {"teacher": teacher}, long_form()):
        assert not list(validator.iter_errors(content))
        Recipe.model_validate(content)
        assert list(validator.iter_errors(content | {"stages": ["genral"]}))
