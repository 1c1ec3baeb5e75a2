"""Parameters in MLflow: of consecutive stages only what differs differs, and each value is text for people."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipes.shipped import read_recipe, shipped_names
from pipeline.tracking.parameters import recipe_params, stage_params
from schemas.core.refs import FolderModel, StudentOf
from schemas.recipe.expand import TaskTeachers, finished_teacher, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.teacher import Committee, PretrainedTeacher

FOLDER = "/store/checkpoints/teacher-0123456789abcdef/model"


def params_of(recipe: Recipe) -> dict[str, dict[str, str]]:
    made = finished_teacher(FOLDER, "0" * 64)
    teachers = TaskTeachers(fine_tuned=(made,) * (1 + len(recipe.teacher.others)), multi_task=made)
    configs = [*teacher_configs(recipe), *(stage_config(recipe, stage, teachers) for stage in recipe.stages)]
    return {config.name: stage_params(config) for config in configs}


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_of_consecutive_stages_only_what_the_stage_changes_differs() -> None:
    params = params_of(read_recipe("quickstart"))
    general, enhanced, adaptive, specific = (
        params[name] for name in ("general", "general_enhanced", "task_adaptive", "task_specific")
    )
    changed = [differing(*pair) for pair in ((general, enhanced), (enhanced, adaptive), (adaptive, specific))]
    # What a recipe sets for one stage alone, such as its duration, differs as well.
    by_thesis = [{name for name in names if not name.startswith("training.")} for names in changed]
    assert by_thesis[0] == {"stage", "teacher"}
    assert {name.partition(".")[0] for name in by_thesis[1]} == {"stage", "data"}
    assert {name.partition(".")[0] for name in by_thesis[2]} == {"stage", "objective"}
    # Under the paths of a stage's own schema, 56 differed on the docstring task.
    assert sum(map(len, changed)) <= 30
    assert [stage["objective"] for stage in (general, adaptive, specific)] == [
        "latent",
        "latent",
        "latent + soft + hard",
    ]
    assert enhanced["teacher"] == adaptive["teacher"] == "fine-tuned: teacher-0123456789abcdef"
    assert general["teacher"].startswith("pretrained: ")
    assert {"objective.latent.terms", "data.max_length", "data.seed"} <= general.keys() & specific.keys()
    assert specific["training.duration"].endswith(" tokens")


def test_no_parameter_of_any_shipped_recipe_is_a_python_expression_or_empty() -> None:
    for name in shipped_names():
        recipe = read_recipe(name)
        single = recipe.for_task(next(iter(recipe.tasks))) if recipe.tasks else recipe
        # The stages of a recipe whose teacher is another recipe's student are known once that student is.
        stages = [] if isinstance(single.teacher.model, StudentOf) else params_of(single).values()
        for params in (recipe_params(recipe), recipe_params(single), *stages):
            for key, value in params.items():
                assert value, (name, key)
                assert value != "None", (name, key)
                assert not value.startswith(("{", "[", "'")), (name, key, value)
        settings = recipe_params(single)
        assert settings["stages"] == ", ".join(stage.name for stage in single.stages)
        for stage in single.stages:
            assert settings[f"stages.{stage.name}.training.duration"] == (
                f"{stage.training.duration.amount:.15g} {stage.training.duration.unit}"
            )


def test_several_teachers_are_named_with_their_weights() -> None:
    recipe = read_recipe("quickstart")
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    one = PretrainedTeacher(model=FolderModel(path=str(Path("/models/first"))))
    other = finished_teacher(FOLDER, "0" * 64)
    both = config.model_copy(update={"teacher": Committee(members=(one, other), weights=(0.75, 0.25))})
    expected = "0.75 pretrained: first + 0.25 fine-tuned: teacher-0123456789abcdef"
    assert stage_params(both)["teacher"] == expected
