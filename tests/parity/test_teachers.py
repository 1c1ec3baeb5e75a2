"""Several teachers, and students that start from an existing model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig

from schemas.core.errors import ConfigError, DataError
from schemas.core.refs import FolderModel
from schemas.recipe.expand import TaskTeachers, baseline_config, stage_config
from schemas.recipe.objective import MaskedLanguageObjective, TaskObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ExtractStart, ModelStart, RandomStart, StudentConfig, StudentShape, StudentStart
from schemas.recipe.teacher import Committee, FinetunedTeacher
from stages import build
from stages.data.batching.payloads import Labels
from stages.identity import stage_digest
from stages.models.encoders import load_encoder
from stages.ports.plain import MetricList, plain_ports
from stages.run import run_stage
from stages.start import starting_encoder
from tests.support.builders import tiny_tokenizer
from tests.support.toys import make_trainer, toy_recipe, toy_teacher

LABELS = ("bad", "good")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return toy_recipe(tmp_path / "in", steps=3)


def classifier(folder: Path, seed: int) -> Path:
    """A random toy teacher with a head that depends on the seed."""
    toy_teacher(folder, labels=LABELS)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def specific(recipe: Recipe, teacher: Any, objective: dict[str, Any]) -> StageConfig:
    first = FinetunedTeacher(model=FolderModel(path="./nowhere"))
    config = stage_config(recipe, recipe.stages[3], TaskTeachers(fine_tuned=(first,)))
    return config.model_copy(update={"teacher": teacher, "objective": TaskObjective.model_validate(objective)})


def gradients(config: StageConfig, folder: Path) -> dict[str, Tensor]:
    trainer = make_trainer(config, plain_ports(folder))
    trainer.student.eval()
    trainer.accumulate()
    return {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}


SOFT_AND_HIDDEN = {"latent": {"terms": [{"kind": "hidden"}], "projection": "shared"}, "hard_label": None}


def test_two_equal_teachers_act_like_one(recipe: Recipe, tmp_path: Path) -> None:
    single = FinetunedTeacher(model=FolderModel(path=str(classifier(tmp_path / "t", seed=1))))
    for weighting in ("fixed", "confidence"):
        both = Committee(members=(single, single), weights=(0.25, 0.75), weighting=weighting)  # type: ignore[arg-type]
        config = {"latent": None, "hard_label": None}
        alone = gradients(specific(recipe, single, config), tmp_path)
        together = gradients(specific(recipe, both, config), tmp_path)
        assert alone.keys() == together.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("width", [16, 8])
def test_a_head_starts_from_the_first_teacher_whatever_the_microbatch(
    width: int, recipe: Recipe, tmp_path: Path
) -> None:
    members = tuple(
        FinetunedTeacher(model=FolderModel(path=str(classifier(tmp_path / f"t{seed}", seed=seed)))) for seed in (1, 2)
    )
    config = specific(recipe, Committee(members=members, weights=(0.5, 0.5)), {"head": "teacher", "latent": None})
    student = recipe.student.model_copy(
        update={"shape": recipe.student.shape.model_copy(update={"hidden_size": width})}
    )
    config = config.model_copy(update={"student": student})

    def weights(config: StageConfig, **options: Any) -> dict[str, Tensor]:
        return make_trainer(config, plain_ports(tmp_path / "ports", **options)).student.state_dict()

    first = weights(config)
    for same in (weights(config, microbatch_tokens=64), weights(config.model_copy(update={"teacher": members[0]}))):
        assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    fresh = config.objective.model_copy(update={"head": "fresh"})
    drawn = weights(config.model_copy(update={"objective": fresh}))
    head = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert head == {name for name, tensor in first.items() if not torch.equal(tensor, drawn[name])}
    if width == 16:
        taught = AutoModelForSequenceClassification.from_pretrained(tmp_path / "t1").state_dict()
        assert all(torch.equal(first[name], taught[name]) for name in head)


def test_fixed_shares_weight_the_gradients_of_the_teachers(recipe: Recipe, tmp_path: Path) -> None:
    members = tuple(
        FinetunedTeacher(model=FolderModel(path=str(classifier(tmp_path / f"t{seed}", seed=seed)))) for seed in (1, 2)
    )
    both = Committee(members=members, weights=(0.25, 0.75))
    config = {"latent": None, "hard_label": None}
    first, second = (gradients(specific(recipe, shares, config), tmp_path) for shares in members)
    together = gradients(specific(recipe, both, config), tmp_path)
    for name, gradient in together.items():
        expected = 0.25 * first[name] + 0.75 * second[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.allclose(first[name], second[name], rtol=0.1) for name in together)


def test_confidence_weights_teachers_by_the_label_of_each_row(recipe: Recipe, tmp_path: Path) -> None:
    folders = [classifier(tmp_path / f"t{seed}", seed=seed) for seed in (1, 2)]
    members = tuple(FinetunedTeacher(model=FolderModel(path=str(folder))) for folder in folders)
    both = Committee(members=members, weights=(0.5, 0.5), weighting="confidence")
    trainer = make_trainer(specific(recipe, both, SOFT_AND_HIDDEN), plain_ports(tmp_path))
    batch = trainer.microbatches()[0]
    target = trainer.teachers.target(batch)
    assert target is not None
    assert target.row_weights is not None
    labels = batch.targets_as(Labels).values
    surprise = []
    for folder in folders:
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = model(**batch.model_inputs()).logits.double().numpy()
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        chances = odds / odds.sum(-1, keepdims=True)
        surprise.append(1 / chances[np.arange(len(labels)), labels.numpy()])
    # exp(cross entropy) is one over the chance of the right class; CA-MKD, two teachers.
    expected = 1 - np.array(surprise) / np.sum(surprise, axis=0)
    np.testing.assert_allclose(target.row_weights.numpy(), expected, rtol=1e-4)
    weights = trainer.objective.weights()
    assert {weights[key] for key in weights} == {1.0}


def test_a_committee_runs_a_stage_and_logs_each_teacher(recipe: Recipe, tmp_path: Path) -> None:
    members = tuple(
        FinetunedTeacher(model=FolderModel(path=str(classifier(tmp_path / f"t{seed}", seed=seed)))) for seed in (1, 2)
    )
    both = Committee(members=members, weights=(0.5, 0.5), weighting="confidence")
    ports = plain_ports(tmp_path)
    run_stage(specific(recipe, both, {}), None, ports)
    assert isinstance(ports.sink, MetricList)
    names = ports.sink.names()
    for index in (0, 1):
        assert f"train/soft_label_loss_teacher_{index}" in names
        assert f"train/hidden_loss_teacher_{index}_layer_1" in names
    whole = ports.sink.values("train/soft_label_loss")[3]
    parts = [ports.sink.values(f"train/soft_label_loss_teacher_{i}")[3] for i in (0, 1)]
    assert whole == pytest.approx(sum(parts))


def test_shares_and_weighting_are_part_of_a_stages_identity(recipe: Recipe, tmp_path: Path) -> None:
    single = FinetunedTeacher(model=FolderModel(path=str(classifier(tmp_path / "t", seed=1))))
    digests = {
        stage_digest(specific(recipe, teacher, {}), None)
        for teacher in (
            single,
            Committee(members=(single, single), weights=(0.5, 0.5)),
            Committee(members=(single, single), weights=(0.4, 0.6)),
            Committee(members=(single, single), weights=(0.5, 0.5), weighting="confidence"),
        )
    }
    assert len(digests) == 4


def test_a_student_learns_masked_words_in_a_stage(recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    folder = tmp_path / "words"
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    objective = MaskedLanguageObjective.model_validate({"latent": {"terms": [{"kind": "hidden", "loss": "cosine"}]}})
    pretrained = recipe.with_pretrained(FolderModel(path=str(folder)))
    stage = stage_config(pretrained, pretrained.stages[0], TaskTeachers()).model_copy(update={"objective": objective})
    ports = plain_ports(tmp_path)
    result = run_stage(stage, None, ports)
    assert isinstance(ports.sink, MetricList)
    assert {"train/soft_label_loss", "train/hard_label_loss", "train/hidden_loss"} <= (ports.sink.names())
    assert 0 < result.metrics["eval/hard_label_loss"] < 20
    following = stage_config(pretrained, pretrained.stages[0], TaskTeachers())
    assert run_stage(following, result.checkpoint, plain_ports(tmp_path / "next")).steps == 3


def general(recipe: Recipe, start: object, **shape: int) -> StageConfig:
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    sizes = {"num_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    student = StudentConfig(shape=StudentShape(**(sizes | shape)), start=start)  # type: ignore[arg-type]
    return config.model_copy(update={"student": student})


@pytest.mark.parametrize("units", ["random", "importance"])
def test_an_extracted_student_is_trained_and_its_parts_are_recorded(recipe: Recipe, tmp_path: Path, units: str) -> None:
    start = ExtractStart.model_validate({"units": units, "calibration_rows": 16})
    result = run_stage(general(recipe, start), None, plain_ports(tmp_path))
    text = (Path(result.checkpoint.path) / "extraction.json").read_text(encoding="utf-8")
    assert '"layers"' in text


@pytest.mark.parametrize("start", [{"kind": "random"}, {"kind": "extract", "units": "importance"}])
def test_the_start_of_a_finished_stage_is_made_again(recipe: Recipe, tmp_path: Path, start: dict[str, str]) -> None:
    config = general(recipe, TypeAdapter(StudentStart).validate_python(start))
    # Steps that change nothing but zeros.
    still = config.training.optimizer.model_copy(update={"learning_rate": 1e-30})
    config = config.model_copy(update={"training": config.training.model_copy(update={"optimizer": still})})
    ports = plain_ports(tmp_path)
    finished = load_encoder(Path(run_stage(config, None, ports).checkpoint.path) / "model").state_dict()
    begun = starting_encoder(config, ports.cache).state_dict()
    assert finished.keys() == begun.keys()
    for name, tensor in finished.items():
        torch.testing.assert_close(begun[name], tensor, rtol=0, atol=1e-25)


def test_the_baseline_starts_from_the_parts_of_the_first_stage_measured_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ExtractStart(units="importance", calibration_rows=16)
    small = StudentShape(num_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=16)
    recipe = recipe.model_copy(update={"student": StudentConfig(shape=small, start=start)})
    first = stage_config(recipe, recipe.stages[0], TaskTeachers())
    control = baseline_config(recipe, tokens=100)
    cache = plain_ports(tmp_path).cache
    begun = starting_encoder(first, cache).state_dict()
    monkeypatch.delattr(build, "measure_importance")
    for name, tensor in starting_encoder(control, cache).state_dict().items():
        assert torch.equal(tensor, begun[name])
    monkeypatch.undo()
    # On the task's own text other parts matter.
    apart = starting_encoder(control.model_copy(update={"start_text": None}), cache).state_dict()
    assert not all(torch.equal(tensor, begun[name]) for name, tensor in apart.items())
    # The first stage reads that text itself, and a random start is the same on any text.
    assert first.start_text is None
    random = recipe.model_copy(update={"student": StudentConfig(shape=small, start=RandomStart())})
    assert baseline_config(random, tokens=100).start_text is None


def test_a_student_can_start_from_an_existing_model(recipe: Recipe, tmp_path: Path) -> None:
    first = run_stage(general(recipe, recipe.student.start), None, plain_ports(tmp_path / "one"))
    there = Path(first.checkpoint.path) / "model"
    start = ModelStart(model=FolderModel(path=str(there)))
    config = general(recipe, start)
    trainer = make_trainer(config, plain_ports(tmp_path / "two"))
    kept = load_encoder(there).state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in trainer.student.state_dict().items())
    before = stage_digest(config, None)
    moved = tmp_path / "moved"
    there.rename(moved)
    again = general(recipe, ModelStart(model=FolderModel(path=str(moved))))
    assert stage_digest(again, None) == before  # of the folder's content, independent of its path
    with pytest.raises(ConfigError, match=r"student\.shape\.num_layers: 3, but .* has 2"):
        make_trainer(general(recipe, again.student.start, num_layers=3), plain_ports(tmp_path / "3"))  # type: ignore[union-attr]
    tiny_tokenizer(["some", "other", "words"]).save_pretrained(moved)
    with pytest.raises(DataError, match="has another vocabulary than the teacher"):
        make_trainer(again, plain_ports(tmp_path / "four"))
