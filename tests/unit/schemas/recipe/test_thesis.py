"""The thesis: three parts, four stages, one changed part at a time; and the published sizes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from transformers import BertConfig

from pipeline.recipes.shipped import read_recipe
from schemas.core.layer_map import ExplicitMap, UniformMap, teacher_layers
from schemas.recipe.recipe import Recipe
from schemas.recipe.student import StudentShape
from stages.models.student import count_parameters, encoder_flops


def test_consecutive_stages_differ_in_exactly_one_part() -> None:
    recipe = read_recipe("ernie-tiny")
    parts = [(stage.teacher, stage.data, stage.objective.kind) for stage in recipe.stages]
    assert parts == [
        ("pretrained", "general_corpus", "latent"),
        ("fine_tuned", "general_corpus", "latent"),
        ("fine_tuned", "task_data", "latent"),
        ("fine_tuned", "task_data", "task"),
    ]
    for before, after in pairwise(parts):
        assert sum(left != right for left, right in zip(before, after, strict=True)) == 1


def test_the_latent_objective_is_the_same_in_every_stage_of_ernie_tiny() -> None:
    recipe = read_recipe("ernie-tiny")
    latents = [
        stage.objective if stage.objective.kind == "latent" else stage.objective.latent for stage in recipe.stages
    ]
    assert all(latent == latents[0] for latent in latents)


@pytest.mark.parametrize(
    ("shape", "parameters", "giga_flops"),
    [
        ((4, 312, 12, 1200), 14_350_248, 1.25),
        ((6, 768, 12, 3072), 66_955_008, 11.2),
        ((12, 768, 12, 3072), 109_482_240, 22.3),
    ],
)
def test_sizes_are_the_published_ones(shape: tuple[int, int, int, int], parameters: int, giga_flops: float) -> None:
    layers, width, heads, inner = shape
    config = BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner)
    assert count_parameters(config) == parameters
    student = StudentShape(num_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner)
    assert encoder_flops(student) / 1e9 == pytest.approx(giga_flops, abs=0.06)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 12, (2, 5, 8, 11)),
        (6, 12, (1, 3, 5, 7, 9, 11)),
        (4, 6, (0, 2, 3, 5)),
        (5, 12, (1, 3, 6, 8, 11)),
        (3, 3, (0, 1, 2)),
    ],
)
def test_the_uniform_map_ends_at_the_last_teacher_layer(student: int, teacher: int, expected: tuple[int, ...]) -> None:
    assert teacher_layers(UniformMap(), num_student_layers=student, num_teacher_layers=teacher) == expected


def test_a_map_that_does_not_fit_the_depth_is_refused_with_the_wrong_number() -> None:
    with pytest.raises(ValueError, match="4 student layers but 3 teacher layers listed; list one per student layer"):
        teacher_layers(ExplicitMap(layers=(0, 1, 2)), num_student_layers=4, num_teacher_layers=12)
    with pytest.raises(ValueError, match="teacher layer 12 does not exist; the teacher has 12 layers"):
        teacher_layers(ExplicitMap(layers=(0, 12)), num_student_layers=2, num_teacher_layers=12)
    with pytest.raises(ValueError, match="the student has 5 layers and the teacher 4"):
        teacher_layers(UniformMap(), num_student_layers=5, num_teacher_layers=4)


def test_a_stage_with_a_part_of_another_stage_is_refused() -> None:
    recipe = read_recipe("ernie-tiny").model_dump(mode="json")
    recipe["stages"] = [recipe["stages"][1], recipe["stages"][0]]
    with pytest.raises(ValueError, match="stages go from general to specific"):
        Recipe.model_validate(recipe)
    recipe = read_recipe("ernie-tiny").model_dump(mode="json")
    recipe["stages"][3]["data"] = "general_corpus"
    with pytest.raises(ValueError, match="task_data"):
        Recipe.model_validate(recipe)
