"""Gradient balance in the training loop: equal shares, microbatches, padding, resumes, every kind of stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from schemas.core.errors import Interrupted
from schemas.core.refs import FolderModel
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, TaskObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import StudentConfig, StudentShape, TeacherLayersStart
from schemas.recipe.teacher import Committee, FinetunedTeacher
from stages.data.batching.tokens import Batch
from stages.models.student import dropout
from stages.objective.terms import run_model
from stages.ports.plain import MemoryStates, MetricList, plain_ports
from stages.run import run_stage
from stages.training import trainer as loop
from stages.training.gradients import spread_rows
from stages.training.trainer import Trainer
from tests.support.kinds import kind_recipe_dict
from tests.support.toys import make_trainer, toy_recipe, toy_teacher

BALANCED: dict[str, Any] = {"normalize": "gradient_share"}
WEIGHTED = BALANCED | {"terms": [{"kind": "attention", "weight": 3.0}, {"kind": "hidden"}, {"kind": "embedding"}]}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("toy"), steps=6)


def general(recipe: Recipe, latent: Mapping[str, Any] = BALANCED) -> StageConfig:
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    return config.model_copy(update={"objective": LatentObjective.model_validate(latent)})


def specific(recipe: Recipe, objective: dict[str, Any], folder: Path, *, teachers: int = 1) -> StageConfig:
    """The last stage with new classifiers as teachers."""
    members = tuple(
        FinetunedTeacher(model=FolderModel(path=str(toy_teacher(folder / f"teacher {number}", labels=("bad", "good")))))
        for number in range(teachers)
    )
    config = stage_config(recipe, recipe.stages[3], TaskTeachers(fine_tuned=members[:1]))
    teacher = members[0] if teachers == 1 else Committee(members=members, weights=(0.25, 0.75), weighting="confidence")
    return config.model_copy(update={"teacher": teacher, "objective": TaskObjective.model_validate(objective)})


def measured_rows(trainer: Trainer) -> Batch:
    rows = spread_rows(np.concatenate(trainer.batches.step(0)), trainer.tokens.lengths)
    return trainer.objective.prepare(trainer.tokens.batch(rows), rows, step=0)


def sharpen(*models: nn.Module) -> None:
    """Scale queries and keys, so that attention scores are of some size, as those of trained models are."""
    with torch.no_grad():
        for factor, model in enumerate(models, start=4):
            for name, parameter in model.named_parameters():
                if "query" in name or "key" in name:
                    parameter.mul_(factor)


def norms_of(trainer: Trainer, batch: Batch, weights: Mapping[str, float]) -> dict[str, float]:
    """Norm of each latent term's own gradient in the student, by backward passes of the loop."""
    counts, norms = trainer.objective.counts(batch), {}
    for name in {term.name for term in trainer.objective.terms}:
        trainer.optimizer.zero_grad()
        alone = {term.key: weights[term.key] if term.name == name else 0.0 for term in trainer.objective.terms}
        trainer.backward(batch, trainer.teachers.target(batch), counts, alone)
        squares = [
            float(parameter.grad.double().square().sum())
            for key, parameter in trainer.parameters.items()
            if key.startswith("student.") and parameter.grad is not None
        ]
        norms[name] = sum(squares) ** 0.5
    trainer.optimizer.zero_grad()
    return norms


@pytest.mark.parametrize("latent", [BALANCED, WEIGHTED], ids=["equal", "weighted"])
def test_terms_have_the_shares_of_their_weights_and_the_gradient_keeps_its_scale(
    latent: dict[str, Any], recipe: Recipe, tmp_path: Path
) -> None:
    trainer = make_trainer(general(recipe, latent), plain_ports(tmp_path))
    sharpen(trainer.student, *trainer.teachers.models)
    batch = measured_rows(trainer)
    with dropout(trainer.student, 0.1):
        before = norms_of(trainer, batch, trainer.objective.weights())
        trainer.measure_balance()
        after = norms_of(trainer, batch, trainer.objective.weights())
    assert max(before.values()) > 3 * min(before.values()), "there should be something to balance"
    configured = {term.name: term.weight for term in trainer.objective.objective.latent.terms}
    total = sum(configured.values())
    expected = {name: sum(before.values()) * weight / total for name, weight in configured.items()}
    assert after == pytest.approx(expected, rel=1e-4)


def test_the_measurement_leaves_no_gradient_and_draws_nothing(recipe: Recipe, tmp_path: Path) -> None:
    plain, balanced = (make_trainer(general(recipe, latent), plain_ports(tmp_path)) for latent in ({}, BALANCED))
    balanced.measure_balance()
    assert not [parameter for parameter in balanced.parameters.values() if parameter.grad is not None]
    for trainer in (plain, balanced):
        weights = {key: 1.0 for key in trainer.objective.weights()}
        trainer.objective.weights = lambda weights=weights: weights  # type: ignore[method-assign,misc]
        with dropout(trainer.student, 0.1):
            trainer.accumulate()
    gradients = [
        {name: parameter.grad for name, parameter in trainer.parameters.items() if parameter.grad is not None}
        for trainer in (plain, balanced)
    ]
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 10
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("terms", [None, [{"kind": "contrastive"}, {"kind": "sample_relation", "num_heads": 4}]])
def test_microbatches_and_padding_do_not_change_the_factors(
    terms: list[dict[str, Any]] | None, recipe: Recipe, tmp_path: Path
) -> None:
    latent = BALANCED if terms is None else BALANCED | {"terms": terms}
    trainers = [
        make_trainer(general(recipe, latent), plain_ports(tmp_path, microbatch_tokens=budget))
        for budget in (8192, 40, 8192)
    ]
    assert len(trainers[1].batches.step(0)) > 1
    batches = trainers[2].tokens.batch
    trainers[2].tokens = replace(trainers[2].tokens)
    object.__setattr__(trainers[2].tokens, "batch", lambda rows: longer(batches(rows)))
    factors = []
    for trainer in trainers:
        with dropout(trainer.student, 0.1):
            trainer.measure_balance()
        factors.append(trainer.objective.factors())
    assert factors[1] == factors[0]
    assert factors[2] == pytest.approx(factors[0], rel=1e-4)


def longer(batch: Batch) -> Batch:
    extra = torch.zeros(len(batch.input_ids), 5, dtype=torch.long)
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, extra], 1),
        attention_mask=torch.cat([batch.attention_mask, extra], 1),
        token_type_ids=None if batch.token_type_ids is None else torch.cat([batch.token_type_ids, extra], 1),
    )


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_stop_between_two_measurements_resumes_bit_for_bit(stop_at: int, recipe: Recipe, tmp_path: Path) -> None:
    config = general(recipe, WEIGHTED)
    folder, sinks = tmp_path / "checkpoint", (MetricList(), MetricList())
    whole = weights_after(config, plain_ports(folder / "whole", sink=sinks[0], log_every=1))
    states, asked = MemoryStates(), [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == stop_at

    ports = plain_ports(folder / "resumed", sink=sinks[1], log_every=1, states=states, stop_requested=stop)
    with pytest.raises(Interrupted, match=f"step {stop_at} of 6"):
        weights_after(config, ports)
    resumed = weights_after(config, ports)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    curves = [sink.values("train/weight_factor/attention") for sink in sinks]
    assert curves[0] == curves[1]
    assert len(set(curves[0].values())) == 4, "measured in steps 0, 1, 2 and 4"


def weights_after(config: StageConfig, ports: Any) -> dict[str, Tensor]:
    """Weights of student and projections at the end of a stage."""
    result = run_stage(config, None, ports)
    files = sorted(Path(result.checkpoint.path).rglob("*.safetensors"))
    assert len(files) == 2
    return {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_running_out_of_memory_after_a_measurement_does_not_repeat_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tight = (make_trainer(general(recipe), plain_ports(tmp_path)) for _ in range(2))
    plain.gradient()
    measured = measured_rows(tight).input_ids.numel()

    def run(model: Any, batch: Batch, needs: Any) -> Any:
        if batch.input_ids.numel() > measured:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return run_model(model, batch, needs)

    monkeypatch.setattr(loop, "run_model", run)
    tight.gradient()
    assert tight.batches.microbatch_tokens < plain.batches.microbatch_tokens
    assert tight.objective.factors() == plain.objective.factors()
    for name, parameter in plain.parameters.items():
        torch.testing.assert_close(tight.parameters[name].grad, parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_label_terms_keep_their_weights(recipe: Recipe, tmp_path: Path) -> None:
    objective = {"latent": BALANCED, "soft_label": {"weight": 0.7}, "hard_label": {"weight": 0.3}}
    trainer = make_trainer(specific(recipe, objective, tmp_path), plain_ports(tmp_path))
    trainer.accumulate()
    weights = trainer.objective.weights()
    assert (weights["soft_label_loss"], weights["hard_label_loss"]) == (0.7, 0.3)
    assert set(trainer.objective.factors()) == {"attention", "hidden", "embedding"}
    assert weights["embedding_loss"] == trainer.objective.factors()["embedding"] != 1


def test_teachers_of_a_committee_share_a_factor(recipe: Recipe, tmp_path: Path) -> None:
    config = specific(recipe, {"latent": BALANCED}, tmp_path, teachers=2)
    trainer = make_trainer(config, plain_ports(tmp_path))
    sharpen(trainer.student, *trainer.teachers.models)
    before = trainer.objective.weights()
    batch = measured_rows(trainer)
    norms = norms_of(trainer, batch, before)
    trainer.measure_balance()
    weights, factors = trainer.objective.weights(), trainer.objective.factors()
    for term in trainer.objective.terms:
        assert weights[term.key] == pytest.approx(before[term.key] * factors.get(term.name, 1.0))
    balanced = norms_of(trainer, batch, weights)
    equal = (norms["attention"] + norms["hidden"] + norms["embedding"]) / 3
    for name in ("attention", "hidden", "embedding"):
        assert balanced[name] == pytest.approx(equal, rel=1e-4)


def test_unlocking_a_block_does_not_change_factors(recipe: Recipe, tmp_path: Path) -> None:
    factors = []
    for progress in (0.0, 0.9):
        trainer = make_trainer(general(recipe, BALANCED | {"unlock": "bottom_up"}), plain_ports(tmp_path))
        trainer.objective.begin(epoch=0, progress=progress)
        trainer.measure_balance()
        factors.append(trainer.objective.factors())
        locked = [key for key, weight in trainer.objective.weights().items() if weight == 0]
        assert bool(locked) == (progress == 0.0)
    assert factors[0] == factors[1]


def test_a_student_that_starts_as_its_teacher_has_finite_weights(recipe: Recipe, tmp_path: Path) -> None:
    shape = StudentShape(num_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    start = TeacherLayersStart.model_validate({"layer_map": {"kind": "bottom"}})
    config = general(recipe, BALANCED | {"layer_map": {"kind": "bottom"}}).model_copy(
        update={"student": StudentConfig(shape=shape, start=start)}
    )
    copied = make_trainer(config, plain_ports(tmp_path))
    copied.student.eval()  # without dropout every term is 0
    copied.measure_balance()
    assert copied.objective.factors() == pytest.approx(dict.fromkeys(("attention", "hidden", "embedding"), 1.0))
    result = run_stage(config, None, ports := plain_ports(tmp_path / "stage", log_every=1))
    assert result.steps == 6
    assert isinstance(ports.sink, MetricList)
    for name in ("attention", "hidden", "embedding"):
        assert all(0 < factor <= 10_000 for factor in ports.sink.values(f"train/weight_factor/{name}").values())


def test_measurements_use_the_masked_words_of_the_step(recipe: Recipe, tmp_path: Path) -> None:
    objective = MaskedLanguageObjective.model_validate({"latent": BALANCED, "soft_label": None})
    config = general(recipe).model_copy(update={"objective": objective})
    trainers = [
        make_trainer(config, plain_ports(tmp_path, microbatch_tokens=budget, log_every=1)) for budget in (8192, 40)
    ]
    for trainer in trainers:
        trainer.accumulate()
    assert trainers[0].objective.factors() == trainers[1].objective.factors()
    masked = measured_rows(trainers[0])
    whole = trainers[0].microbatches()[0]
    assert masked.indices is not None
    assert whole.indices is not None
    for row, index in enumerate(masked.indices):
        length = masked.lengths()[row]
        (position,) = np.flatnonzero(whole.indices == index)
        assert torch.equal(masked.input_ids[row, :length], whole.input_ids[position, :length])


def test_choices_of_a_row_may_be_measured_separately(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(kind_recipe_dict(tmp_path / "in", "multiple_choice"))
    teacher = FinetunedTeacher(model=FolderModel(path="./nowhere"))
    config = stage_config(recipe, recipe.stages[2], TaskTeachers(fine_tuned=(teacher,)))
    config = config.model_copy(
        update={
            "objective": LatentObjective.model_validate(BALANCED),
            "teacher": stage_config(recipe, recipe.stages[0], TaskTeachers()).teacher,
        }
    )
    trainer = make_trainer(config, plain_ports(tmp_path))
    trainer.accumulate()
    assert {factor != 1 for factor in trainer.objective.factors().values()} == {True}


@pytest.mark.parametrize(
    ("lengths", "number"),
    [([128] * 256, 4), ([12] * 32, 16), ([7, 9], 2), ([16] * 64, 32), ([8] * 1000, 64), ([512], 1), ([5] * 5, 4)],
)
def test_rows_are_bounded_and_spread_over_lengths(lengths: list[int], number: int) -> None:
    generator = np.random.default_rng(0)
    order = generator.permutation(len(lengths))
    chosen = spread_rows(order, np.array(lengths, np.int32))
    assert len(chosen) == len(set(chosen.tolist())) == number


def test_measured_rows_cover_all_lengths() -> None:
    lengths = np.arange(1, 101, dtype=np.int32)
    chosen = lengths[spread_rows(np.random.default_rng(0).permutation(100), lengths)]
    assert len(chosen) == 10
    assert float(chosen.mean()) == pytest.approx(50.5, abs=1)
    assert (np.diff(chosen) == 10).all()
