"""Every kind of objective in the training loop: counts, accumulation, padding, finite gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.core.errors import ConfigError
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.data.batching.tokens import Batch
from stages.objective.terms import run_model
from stages.ports.plain import MetricList, plain_ports
from stages.run import run_stage
from stages.training.gradients import gradient_shares
from stages.training.trainer import Trainer
from tests.support.toys import LATENTS, make_trainer, toy_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("toy"), steps=2)


def general(recipe: Recipe, latent: dict[str, Any], **training: object) -> StageConfig:
    """The general stage with another objective."""
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    return config.model_copy(
        update={
            "objective": LatentObjective.model_validate(latent),
            "training": config.training.model_copy(update=training),
        }
    )


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}


def shares_of(trainer: Trainer, batch: Batch) -> dict[str, float]:
    """Return each term's share of the gradient in the trainer's step."""
    with trainer.draws.of(trainer.state.step, batch):
        return gradient_shares(
            trainer.student, trainer.teachers.models, trainer.objective, batch, trainer.runtime, trainer.parameters
        )


@pytest.mark.parametrize("name", sorted(LATENTS))
def test_counts_are_known_before_the_forward_pass(name: str, recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, LATENTS[name]), plain_ports(tmp_path))
    batch = trainer.microbatches()[0]
    output = run_model(trainer.student, batch, trainer.objective.student_needs)
    losses = trainer.objective.compute(output, trainer.teachers.target(batch), batch)
    counted = {key: int(loss.count) for key, loss in losses.items()}
    assert counted == trainer.objective.counts(batch)
    assert all(math.isfinite(float(loss.total.detach())) for loss in losses.values())


@pytest.mark.parametrize("name", sorted(LATENTS))
def test_neither_accumulation_nor_padding_changes_the_gradient(name: str, recipe: Recipe, tmp_path: Path) -> None:
    config = general(recipe, LATENTS[name])
    whole = make_trainer(config, plain_ports(tmp_path))
    cut = make_trainer(config, plain_ports(tmp_path, microbatch_tokens=40))
    assert len(whole.batches.step(0)) == 1 < len(cut.batches.step(0))
    whole.accumulate()
    expected = gradients(whole)
    assert expected
    assert all(bool(gradient.isfinite().all()) for gradient in expected.values())
    padded = make_trainer(config, plain_ports(tmp_path))
    batches = padded.tokens.batch
    padded.microbatches = lambda: [_longer(batches(rows)) for rows in padded.batches.step(0)]  # type: ignore[method-assign]
    padded.accumulate()
    results = [gradients(padded)]
    if whole.objective.couples_rows:
        with pytest.raises(ConfigError, match=r"execution\.microbatch_tokens"):
            cut.accumulate()
    else:
        cut.accumulate()
        results.append(gradients(cut))
    for result in results:
        assert result.keys() == expected.keys()
        for key, gradient in expected.items():
            torch.testing.assert_close(result[key], gradient, rtol=1e-3, atol=2e-6, msg=key)


def _longer(batch: Any) -> Any:
    extra = torch.zeros(len(batch.input_ids), 5, dtype=torch.long)
    tensors = {
        name: torch.cat([getattr(batch, name), extra], 1)
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if getattr(batch, name) is not None
    }
    return replace(batch, **tensors)


@pytest.mark.parametrize("name", ["tinybert", "minilm_v2", "lrc", "emd"])
def test_gradient_shares_sum_to_one_and_leave_no_gradient(name: str, recipe: Recipe, tmp_path: Path) -> None:
    config = general(recipe, LATENTS[name])
    trainer = make_trainer(config, plain_ports(tmp_path))
    trainer.accumulate()
    expected = gradients(trainer)
    for parameter in trainer.parameters.values():
        parameter.grad = None
    shares = shares_of(trainer, trainer.microbatches()[0])
    assert set(shares) == {term.key for term in trainer.objective.terms}
    assert sum(shares.values()) == pytest.approx(1)
    assert not gradients(trainer)
    sink = MetricList()
    again = make_trainer(config, plain_ports(tmp_path, gradient_share_every=1, sink=sink))
    again.accumulate()
    assert all(torch.equal(gradient, expected[key]) for key, gradient in gradients(again).items())
    logged = {f"train/gradient_share/{key}": value for key, value in shares.items()}
    assert sink.points == ([(0, pytest.approx(logged))] if len(shares) > 1 else [])


def test_a_share_is_the_norm_of_the_terms_own_gradient(recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, {}), plain_ports(tmp_path))
    batch = trainer.microbatches()[0]
    counts = trainer.objective.counts(batch)
    norms = {}
    for key in counts:
        for parameter in trainer.parameters.values():
            parameter.grad = None
        alone = {name: float(name == key) * weight for name, weight in trainer.objective.weights().items()}
        trainer.backward(batch, trainer.teachers.target(batch), counts, alone)
        norms[key] = sum(float(g.double().square().sum()) for g in gradients(trainer).values()) ** 0.5
    shares = shares_of(trainer, batch)
    total = sum(norms.values())
    assert shares == pytest.approx({key: norm / total for key, norm in norms.items()}, rel=1e-4)


def test_terms_are_divided_by_their_value_at_step_0(recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, {"normalize": "first_step"}), plain_ports(tmp_path))
    trainer.accumulate()
    weights, means = trainer.objective.weights(), trainer.meter.means()
    for name in ("attention", "hidden", "embedding"):
        keys = [term.key for term in trainer.objective.terms if term.name == name]
        assert sum(weights[key] * means[key] for key in keys) == pytest.approx(1, rel=1e-5)


def test_first_values_are_part_of_the_training_state(recipe: Recipe, tmp_path: Path) -> None:
    config = general(recipe, {"normalize": "first_step"})
    first = make_trainer(config, plain_ports(tmp_path))
    first.train_step()
    second = make_trainer(config, plain_ports(tmp_path))
    second.state.restore(first.state.saved(teachers_cached=False))
    assert not second.objective.wants_initial
    assert second.objective.weights() == first.objective.weights()


def test_blocks_are_unlocked_from_the_bottom(recipe: Recipe, tmp_path: Path) -> None:
    objective = make_trainer(general(recipe, {"unlock": "bottom_up"}), plain_ports(tmp_path)).objective
    for progress, unlocked in ((0.0, {0}), (0.49, {0}), (0.5, {0, 1}), (0.99, {0, 1})):
        objective.begin(epoch=0, progress=progress)
        weights = objective.weights()
        on = {term.layer for term in objective.terms if weights[term.key] > 0}
        assert on - {None} == unlocked


def test_a_random_map_is_redrawn_each_epoch_and_restored_on_resume(recipe: Recipe, tmp_path: Path) -> None:
    config = general(recipe, {"layer_map": {"kind": "random", "seed": 3}})
    objective = make_trainer(config, plain_ports(tmp_path)).objective
    drawn = []
    for epoch in (0, 1, 2, 3, 1):
        objective.begin(epoch=epoch, progress=0.0)
        drawn.append(objective.teacher_needs(0).attention)
    assert drawn[1] == drawn[4]
    assert len(set(drawn)) > 1


def test_a_perturbed_step_moves_embeddings_by_the_configured_norm(recipe: Recipe, tmp_path: Path) -> None:
    plain = make_trainer(general(recipe, {}), plain_ports(tmp_path))
    perturbed = make_trainer(general(recipe, {}, gradient_perturbation=1.0), plain_ports(tmp_path))
    seen: list[Tensor] = []
    table = perturbed.student.get_input_embeddings()  # type: ignore[operator]
    inner = table.forward
    table.forward = lambda ids: inner(ids)
    plain.accumulate()
    hook = perturbed.student.embeddings.register_forward_pre_hook(lambda *_: None)  # type: ignore[union-attr,operator]
    norm = perturbed.student.embeddings.LayerNorm  # type: ignore[union-attr]
    norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach().clone()))
    perturbed.accumulate()
    hook.remove()
    moved = (seen[1] - seen[0]).flatten(1).norm(dim=1)
    assert moved.tolist() == pytest.approx([1.0] * len(moved), rel=1e-4)
    plain_gradients, perturbed_gradients = gradients(plain), gradients(perturbed)
    assert any(not torch.allclose(plain_gradients[key], perturbed_gradients[key]) for key in plain_gradients)


def test_every_kind_of_objective_runs_a_whole_stage(recipe: Recipe, tmp_path: Path) -> None:
    for name, latent in LATENTS.items():
        ports = plain_ports(tmp_path / name)
        result = run_stage(general(recipe, latent), None, ports)
        assert result.steps == 2
        assert isinstance(ports.sink, MetricList)
        assert math.isfinite(ports.sink.values("train/loss")[2])
