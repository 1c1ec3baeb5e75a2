"""Models of every family train as teacher and student: on hidden states, on labels, and across families."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModel, AutoModelForSequenceClassification

from schemas.core.errors import ConfigError
from schemas.core.refs import FolderModel
from schemas.core.training import Training
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective, TaskObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ExtractStart, StudentConfig, StudentShape
from schemas.recipe.teacher import FinetunedTeacher, PretrainedTeacher
from schemas.results.manifest import CheckpointRef, StageResult
from stages.data.batching.tokens import Batch
from stages.models.encoders import shape_of
from stages.models.student import fresh_student
from stages.ports.plain import MetricList, plain_ports
from stages.preflight.checks import preflight
from stages.run import run_stage
from tests.support.families import FAMILIES, HOOKED, READABLE, SHAPE, family_config, family_folder
from tests.support.kinds import kind_task
from tests.support.toys import make_trainer, toy_recipe_dict

LABELS = ("bad", "good")
ON_STATES: tuple[dict[str, Any], ...] = ({"kind": "hidden"}, {"kind": "embedding"})
ON_ATTENTION: tuple[dict[str, Any], ...] = (
    {"kind": "attention"},
    {"kind": "relation", "between": "query"},
    {"kind": "relation", "between": "key"},
    {"kind": "relation", "between": "value"},
)
TRAINING = Training.model_validate(
    {"duration": "3 steps", "batch": "8 sequences", "optimizer": {"learning_rate": 1e-3}, "precision": "fp32"}
)


def terms(*families: str) -> tuple[dict[str, Any], ...]:
    """Return all terms that can be matched between models of these families."""
    return ON_STATES + (ON_ATTENTION if set(families) <= set(READABLE) else ())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def toys(here: Path) -> dict[str, Any]:
    return toy_recipe_dict(here / "toys")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def folder_of(here: Path, family: str, labels: tuple[str, ...] | None = None) -> Path:
    folder = here / f"{family}-{'classifier' if labels else 'encoder'}"
    return folder if folder.is_dir() else family_folder(folder, family, labels=labels)


def general_stage(
    here: Path, toys: dict[str, Any], teacher: str, student: str | None = None, **start: Any
) -> tuple[StageConfig, StageResult, MetricList]:
    """Run the general stage with all terms that can be matched."""
    model = FolderModel(path=str(folder_of(here, teacher)))
    config = StageConfig(
        name="general",
        teacher=PretrainedTeacher(model=model),
        student=StudentConfig(shape=SHAPE, model_type=student, **start),
        pretrained=model,
        data=GeneralCorpus.model_validate(toys["general_corpus"]),
        objective=LatentObjective.model_validate({"terms": terms(teacher, student or teacher)}),
        training=TRAINING,
    )
    sink = MetricList()
    ports = plain_ports(here / "-".join([teacher, str(student), *start]), cache=cache_of(here), sink=sink, log_every=1)
    return config, run_stage(config, None, ports), sink


def cache_of(here: Path) -> Path:
    """One cache for all families, which read the same tokens."""
    (here / "cache").mkdir(exist_ok=True)
    return here / "cache"


@pytest.fixture(scope="module")
def general(here: Path, toys: dict[str, Any], family: str) -> tuple[StageConfig, StageResult, MetricList]:
    return general_stage(here, toys, family)


def check_checkpoint(checkpoint: CheckpointRef, auto: Any, model_type: str, config: StageConfig) -> None:
    """Check that the checkpoint loads completely with that family and shape, and that training changed it."""
    model, loading = auto.from_pretrained(Path(checkpoint.path) / "model", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.model_type == model_type
    shape = shape_of(model.config)
    assert {name: getattr(shape, name) for name in StudentShape.model_fields} == SHAPE.model_dump()
    if auto is AutoModel:
        assert config.student is not None
        start = fresh_student(config.student, Path(config.pretrained.path)).state_dict()
        matrices = [name for name, tensor in model.named_parameters() if tensor.ndim > 1]
        still = {name for name in matrices if torch.equal(model.state_dict()[name], start[name])}
        # No latent term reaches a pooler; RoFormer's table of sines is fixed.
        assert all("pool" in name or "embed_positions" in name for name in still), still


def test_a_student_of_a_general_stage_can_be_loaded(
    family: str, general: tuple[StageConfig, StageResult, MetricList]
) -> None:
    config, result, sink = general
    assert result.steps == 3
    wanted = {"hidden_loss", "embedding_loss"}
    if family in READABLE:
        wanted |= {"attention_loss", "query_relation_loss", "key_relation_loss"}
        wanted |= {"value_relation_loss"}
    for name in wanted:
        values = sink.values(f"train/{name}")
        assert len(values) == 3
        assert all(math.isfinite(value) and value > 0 for value in values.values())
    check_checkpoint(result.checkpoint, AutoModel, family, config)


def test_a_stage_with_labels_continues_from_a_general_stage(
    here: Path, toys: dict[str, Any], family: str, general: tuple[StageConfig, StageResult, MetricList]
) -> None:
    if type(family_config(family)) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        pytest.skip(f"transformers has no sequence classifier of the family {family}")
    before, first, _ = general
    folder = folder_of(here, family, LABELS)
    config = StageConfig(
        name="task_specific",
        teacher=FinetunedTeacher(model=FolderModel(path=str(folder))),
        student=before.student,
        pretrained=before.pretrained,
        data=TaskDataset.model_validate({"task": toys["task"]}),
        objective=TaskObjective.model_validate({"latent": {"terms": terms(family)}}),
        training=TRAINING,
    )
    sink = MetricList()
    ports = plain_ports(here / f"{family}-task", cache=cache_of(here), sink=sink, log_every=1)
    result = run_stage(config, first.checkpoint, ports)
    for name in ("soft_label_loss", "hard_label_loss", "hidden_loss"):
        values = sink.values(f"train/{name}")
        assert len(values) == 3
        assert all(math.isfinite(value) and value > 0 for value in values.values())
    assert 0 <= result.metrics["eval/accuracy"] <= 1
    check_checkpoint(result.checkpoint, AutoModelForSequenceClassification, family, config)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("bert", "distilbert"),
        ("bert", "electra"),
        ("bert", "roberta"),
        ("bert", "eurobert"),
        ("roberta", "bert"),
        ("modernbert", "albert"),
        ("deberta-v2", "bert"),
        ("mpnet", "bert"),
        ("roformer", "megatron-bert"),
        ("rembert", "deberta-v2"),
        ("convbert", "bert"),
    ],
)
def test_a_student_of_another_family_learns_from_the_teacher(
    here: Path, toys: dict[str, Any], teacher: str, student: str
) -> None:
    config, result, sink = general_stage(here, toys, teacher, student)
    assert ("train/attention_loss" in sink.names()) is ({teacher, student} <= set(READABLE))
    check_checkpoint(result.checkpoint, AutoModel, student, config)


@pytest.mark.parametrize("name", ["mpnet", "deberta-v2"])
def test_an_extracted_student_learns_from_attention_read_at_modules(
    here: Path, toys: dict[str, Any], name: str
) -> None:
    start = ExtractStart(units="random")
    _, result, sink = general_stage(here, toys, name, start=start)
    for term in ("attention", "query_relation", "value_relation"):
        values = sink.values(f"train/{term}_loss")
        assert len(values) == result.steps == 3
        assert all(math.isfinite(value) and value > 0 for value in values.values())


def recipe_on(toys: dict[str, Any], folder: Path, kinds: list[dict[str, Any]], **student: Any) -> Recipe:
    """The general stage alone, with these latent terms."""
    first = toys["stages"][0] | {"objective": {"kind": "latent", "terms": kinds}}
    changed = {"teacher": {"model": str(folder)}, "student": toys["student"] | student, "stages": [first], "task": None}
    return Recipe.model_validate(toys | changed)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in READABLE])
def test_attention_of_an_uncapturable_teacher_is_refused_by_name(here: Path, toys: dict[str, Any], name: str) -> None:
    folder = folder_of(here, name)
    for term in ON_ATTENTION:
        with pytest.raises(ConfigError, match=rf"stages\[0\].*cannot be read from a {name} model"):
            preflight(recipe_on(toys, folder, [term]), cache_of(here))
    assert preflight(recipe_on(toys, folder, [*ON_STATES]), cache_of(here)).student == SHAPE


@pytest.mark.parametrize("name", [name for name in ("gte", "nomic_bert") if name in FAMILIES])
@pytest.mark.parametrize("kind", ["question_answering", "multiple_choice"])
def test_a_kind_without_a_head_in_the_family_is_refused_by_name(
    here: Path, toys: dict[str, Any], name: str, kind: str
) -> None:
    recipe = toys | {"student": toys["student"] | {"model_type": name}, "task": kind_task(here, kind)}
    with pytest.raises(ConfigError, match=rf"task\.problem: transformers has no {kind} head for {name}"):
        preflight(Recipe.model_validate(recipe), cache_of(here))


def test_attention_of_an_uncapturable_student_is_refused_by_name(here: Path, toys: dict[str, Any]) -> None:
    recipe = recipe_on(toys, folder_of(here, "bert"), [{"kind": "attention"}], model_type="convbert")
    with pytest.raises(ConfigError, match=r"cannot be read from a convbert model \(student\)"):
        preflight(recipe, cache_of(here))


@pytest.mark.parametrize("name", [family for family in FAMILIES if family in HOOKED])
def test_recorded_attention_survives_accumulation_padding_and_caching(
    here: Path, toys: dict[str, Any], name: str, tmp_path: Path
) -> None:
    kinds = [{"kind": "attention", "loss": loss} for loss in ("mse_scores", "mse_centred_scores", "kl_probabilities")]
    gradients = []
    for kind in (*kinds, {"kind": "relation", "between": "key"}):
        for way in ("whole", "cut", "padded", "cached"):
            recipe = recipe_on(toys, folder_of(here, name), [kind])
            config = stage_config(recipe, recipe.stages[0], TaskTeachers())
            room = {"microbatch_tokens": 40} if way == "cut" else {"teacher_cache_bytes": 10**8}
            trainer = make_trainer(config, plain_ports(tmp_path, **room))
            if way == "padded":
                width = max(trainer.tokens.lengths)
                rows = np.concatenate(trainer.batches.step(0))
                batch = trainer.tokens.batch(rows)
                trainer.microbatches = lambda batch=batch, width=width: [longer(batch, width)]  # type: ignore[method-assign]
            elif way == "cached":
                trainer.teachers.fill_caches(trainer.batches, 10**6, trainer.ports, "general")
                assert trainer.teachers.caches
            trainer.accumulate()
            gradients.append({key: p.grad for key, p in trainer.parameters.items() if p.grad is not None})
        expected, *others = gradients
        gradients.clear()
        for other in others:
            assert other.keys() == expected.keys()
            for key, gradient in expected.items():
                assert (other[key] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, (kind, key)


def longer(batch: Batch, by: int) -> Batch:
    extra = torch.zeros(len(batch.input_ids), by, dtype=torch.long)
    types = batch.token_type_ids
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, extra], 1),
        attention_mask=torch.cat([batch.attention_mask, extra], 1),
        token_type_ids=None if types is None else torch.cat([types, extra], 1),
    )
