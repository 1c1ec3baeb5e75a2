"""Every shipped recipe is a recipe, and says what it is meant to say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from schemas.loading import dump_recipe, load_recipe, recipe_names
from schemas.objective import LatentObjective, TaskObjective, UniformMap, teacher_layers
from schemas.recipe import Recipe, TeacherShape
from schemas.refs import PackageModel
from schemas.student import TeacherLayersStart

FOLDER = Path(__file__).resolve().parents[2] / "pipeline" / "recipes"
FILES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".yml"))
BERT_BASE = TeacherShape(
    num_layers=12,
    hidden_size=768,
    num_attention_heads=12,
    intermediate_size=3072,
    vocab_size=30522,
    max_positions=512,
)
MINILM = TeacherShape(
    num_layers=6,
    hidden_size=384,
    num_attention_heads=12,
    intermediate_size=1536,
    vocab_size=30522,
    max_positions=512,
)


def shipped(name: str) -> Recipe:
    return load_recipe(name, recipes_folder=FOLDER)


def test_three_recipes_are_shipped_and_all_of_them_are_listed() -> None:
    assert len(FILES) == 3
    assert recipe_names(FOLDER) == ("ernie-tiny", "quickstart", "tinybert")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_validates_and_is_named_like_its_file(path: Path) -> None:
    recipe = load_recipe(path, recipes_folder=None)
    assert recipe.name == path.stem
    assert recipe == shipped(path.stem)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dumped_recipe_loads_back_to_an_equal_one(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, recipes_folder=None)
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(dumped, recipes_folder=None) == recipe


@pytest.mark.parametrize(
    ("name", "teacher"),
    [("quickstart", MINILM), ("ernie-tiny", BERT_BASE), ("tinybert", BERT_BASE)],
)
def test_a_shipped_recipe_fits_the_shape_of_its_teacher(name: str, teacher: TeacherShape) -> None:
    assert shipped(name).problems_with(teacher) == []


@pytest.mark.parametrize("name", ["quickstart", "ernie-tiny"])
def test_consecutive_stages_differ_in_exactly_one_part(name: str) -> None:
    parts = [(stage.teacher, stage.data, stage.objective.kind) for stage in shipped(name).stages]
    assert parts[0] == ("pretrained", "general_corpus", "latent")
    changed = [
        [part for part in range(3) if before[part] != after[part]]
        for before, after in pairwise(parts)
    ]
    assert changed == [[0], [1], [2]]
    assert parts[-1] == ("fine_tuned", "task_data", "task")


def test_ernie_tiny_matches_the_same_latent_terms_in_every_stage() -> None:
    latents = []
    for stage in shipped("ernie-tiny").stages:
        objective = stage.objective
        latents.append(objective.latent if isinstance(objective, TaskObjective) else objective)
    assert all(isinstance(latent, LatentObjective) for latent in latents)
    assert len(set(latents)) == 1


def test_tinybert_ends_with_the_teachers_answer_alone() -> None:
    stages = shipped("tinybert").stages
    assert [stage.name for stage in stages] == ["general", "task_adaptive", "task_specific"]
    objective = stages[-1].objective
    assert isinstance(objective, TaskObjective)
    assert objective.latent is None
    assert objective.hard_label is None
    assert objective.soft_label is not None
    assert objective.soft_label.temperature == 1.0


def test_quickstart_copies_every_second_layer_of_the_packaged_teacher() -> None:
    recipe = shipped("quickstart")
    model = recipe.teacher.model
    assert isinstance(model, PackageModel)
    assert model.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    start = recipe.student.start
    assert isinstance(start, TeacherLayersStart)
    assert isinstance(start.layer_map, UniformMap)
    assert teacher_layers(start.layer_map, num_student_layers=3, num_teacher_layers=6) == (1, 3, 5)
