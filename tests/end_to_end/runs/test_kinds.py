"""Every kind of task through all four stages: trained, scored, interrupted, resumed, and opened by transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from schemas.core.errors import Interrupted
from schemas.core.kinds import MultipleChoice
from schemas.core.training import Duration
from schemas.recipe.expand import TaskTeachers, finished_teacher, stage_config, task_teachers, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import CheckpointRef, StageResult
from schemas.results.score import Score
from stages.judge import chance, judge_bag_of_words, judge_checkpoint, judge_model, make_yardstick
from stages.kinds.registry import kind_of
from stages.models.encoders import load_config, load_tokenizer
from stages.ports.plain import MemoryStates, plain_ports
from stages.run import run_stage
from stages.stage_data import load_data
from tests.support.kinds import ROWS, kind_recipe_dict, kind_rows
from tests.support.toys import make_trainer

AUTO: dict[str, Any] = {
    "pair": AutoModelForSequenceClassification,
    "multi_label": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "multiple_choice": AutoModelForMultipleChoice,
    "embedding": AutoModel,
}


@dataclass(frozen=True)
class Kind:
    """The toy task of a kind, its teacher, and a student after two of the stages."""

    name: str
    folder: Path
    recipe: Recipe
    teachers: TaskTeachers
    results: dict[str, StageResult]

    @property
    def last(self) -> CheckpointRef:
        return self.results["task_specific"].checkpoint

    @property
    def student(self) -> Path:
        return Path(self.last.path) / "model"


@pytest.fixture(scope="module", params=ROWS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = Recipe.model_validate(kind_recipe_dict(folder, request.param, steps=6))
    cache = folder / "ports"
    results: dict[str, StageResult] = {}
    finished = {}
    for config in teacher_configs(recipe):
        result = results["teacher"] = run_stage(config, None, plain_ports(cache / "teacher"))
        finished["teacher"] = finished_teacher(f"{result.checkpoint.path}/model", result.checkpoint.digest)
    teachers = task_teachers(recipe, finished)
    parent = None
    for stage in recipe.stages:
        config = stage_config(recipe, stage, teachers)
        result = run_stage(config, parent, plain_ports(cache / stage.name))
        results[stage.name], parent = result, result.checkpoint
    return Kind(request.param, folder, recipe, teachers, results)


def test_latent_soft_and_hard_label_losses_are_logged(kind: Kind) -> None:
    metrics = kind.results["task_specific"].metrics
    wanted = {"attention_loss", "hidden_loss", "embedding_loss", "soft_label_loss"}
    if kind.name != "embedding":
        wanted.add("hard_label_loss")
    for name in wanted:
        assert np.isfinite(metrics[f"train/{name}"]), name
        assert np.isfinite(metrics[f"eval/{name}"]), name
    assert ("train/hard_label_loss" in metrics) == (kind.name != "embedding")


@pytest.mark.parametrize("head", ["fresh", "teacher"])
def test_an_interrupted_stage_ends_with_the_same_weights(kind: Kind, head: str) -> None:
    stage = kind.recipe.stages[-1]
    config = stage_config(kind.recipe, stage, kind.teachers)
    parent = kind.results["task_adaptive"].checkpoint
    whole = kind.results["task_specific"]
    if head == "teacher":
        config = config.model_copy(update={"objective": config.objective.model_copy(update={"head": head})})
        whole = run_stage(config, parent, plain_ports(kind.folder / "whole"))
        assert whole.checkpoint.digest != kind.last.digest
    states = MemoryStates()
    seen = iter([False, False, True])
    first = plain_ports(kind.folder / f"stopped {head}", states=states, stop_requested=lambda: next(seen, True))
    with pytest.raises(Interrupted, match="step 3 of 6"):
        run_stage(config, parent, first)
    again = run_stage(config, parent, plain_ports(kind.folder / f"again {head}", states=states))
    plain_weights, resumed_weights = (
        {
            str(file.relative_to(Path(result.checkpoint.path) / "model")): load_file(file)
            for file in sorted((Path(result.checkpoint.path) / "model").rglob("*.safetensors"))
        }
        for result in (whole, again)
    )
    assert plain_weights.keys() == resumed_weights.keys()
    for name, tensors in plain_weights.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, resumed_weights[name][key]), f"{name}: {key}"


def test_cached_outputs_of_a_teacher_equal_live_ones(kind: Kind) -> None:
    stage = kind.recipe.stages[-1]
    config = stage_config(kind.recipe, stage, kind.teachers)
    longer = config.training.model_copy(update={"duration": Duration(amount=2, unit="epochs")})
    ports = plain_ports(kind.folder / "asked once", teacher_cache_bytes=10**9)
    trainer = make_trainer(config.model_copy(update={"training": longer}), ports)
    trainer.teachers.fill_caches(trainer.batches, trainer.num_steps, trainer.ports, "task_specific")
    assert len(trainer.teachers.caches) == 1
    batch = trainer.tokens.batch(np.concatenate(trainer.batches.step(0)))
    kept, live = trainer.teachers.target(batch), trainer.objective.read_teachers(trainer.teachers.models, batch)
    assert kept is not None
    assert live is not None
    mask = batch.attention_mask.bool()
    logits, expected = kept.outputs[0].logits, live.outputs[0].logits
    assert logits is not None
    assert expected is not None
    assert logits.shape == expected.shape
    if logits.ndim == 3:
        logits, expected = logits[mask], expected[mask]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_the_yardstick_scores_teacher_student_and_baseline(kind: Kind) -> None:
    yardstick = make_yardstick(kind.recipe, kind.teachers.fine_tuned[0], kind.folder / "ports" / "teacher" / "cache")
    student = judge_checkpoint(kind.last, ("any",), yardstick)
    general = judge_checkpoint(kind.results["general"].checkpoint, (), yardstick)
    baseline = judge_bag_of_words(yardstick)
    main = yardstick.metric
    assert student.scores[main].low <= student.scores[main].value <= student.scores[main].high
    assert (
        student.task_metric
        == student.scores[main].value
        == pytest.approx(kind.results["task_specific"].metrics[f"eval/{main}"])
    )
    assert main in baseline.scores
    assert general.task_metric is None
    assert (general.probe_accuracy if kind.name == "pair" else general.probe_score) is not None
    assert student.agreement is not None
    assert (student.minus_teacher is None) == (kind.name == "embedding")
    if student.minus_teacher is not None:
        teacher = judge_model(yardstick.teacher, yardstick, has_head=True)
        assert teacher.task_metric is not None
        apart = student.scores[main].value - teacher.task_metric
        assert student.minus_teacher.value == pytest.approx(apart)
        assert student.minus_teacher.low <= apart <= student.minus_teacher.high
        assert teacher.minus_teacher == Score(value=0, low=0, high=0), "of itself"
    guessed = chance(yardstick)
    assert (not guessed) == (kind.name == "embedding")


def test_transformers_loads_the_student_with_the_same_outputs(kind: Kind) -> None:
    model = AUTO[kind.name].from_pretrained(kind.student).eval()
    tokenizer = AutoTokenizer.from_pretrained(kind.student)
    assert kind.recipe.task is not None
    data = load_data(
        stage_config(kind.recipe, kind.recipe.stages[-1], kind.teachers).data,
        load_tokenizer(kind.student, load_config(kind.student)),
        kind.folder / "cache",
    )
    batch = data.held_out.batch(np.arange(4))
    inputs = batch.model_inputs()
    if kind.name == "multiple_choice":
        batch = data.held_out.batch(np.flatnonzero(data.held_out.row_of == 0))
        inputs = {name: value[None] for name, value in batch.model_inputs().items()}
    with torch.no_grad():
        output = model(**inputs)
    if kind.name == "token_classification":
        tagger = pipeline("token-classification", model=model, tokenizer=tokenizer)
        (row,) = kind_rows(kind.name, 1, 9)
        assert {entity["entity"] for entity in tagger(" ".join(row["tokens"]))} <= set(data.labels)
        assert model.config.id2label == dict(enumerate(data.labels))
    elif kind.name == "question_answering":
        assert output.start_logits.shape == batch.input_ids.shape
    elif kind.name == "multiple_choice":
        ours = kind_of(MultipleChoice()).head.load(kind.student)
        with torch.no_grad():
            scores = ours(**batch.model_inputs()).logits
        assert torch.equal(output.logits, scores.T)
    elif kind.name == "embedding":
        assert output.last_hidden_state.shape[-1] == 8
        modules = json.loads((kind.student / "modules.json").read_text())
        assert [part["path"] for part in modules] == ["", "1_Pooling", "2_Dense"]
        dense = load_file(kind.student / "2_Dense" / "model.safetensors")
        assert dense["linear.weight"].shape == (16, 8), "the width of the teacher's vectors"
    else:
        assert output.logits.shape == (4, len(data.labels))
        expected = {"multi_label": "multi_label_classification", "regression": "regression"}
        assert model.config.problem_type == expected.get(kind.name)
