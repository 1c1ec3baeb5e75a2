"""A frozen word table is unchanged, all other weights train as before, and no optimizer state is stored for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from schemas.core.errors import Interrupted
from schemas.recipe.expand import TaskTeachers, baseline_config, stage_config
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ExtractStart
from stages.models.tensors import read_tensors
from stages.ports.plain import MemoryStates, MetricList, plain_ports
from stages.run import run_stage
from stages.training.optimizer import freeze, named_parameters
from stages.training.trainer import Trainer
from tests.support.families import FAMILIES, family_config
from tests.support.toys import make_trainer, toy_recipe, toy_recipe_dict

TABLE = "student.embeddings.word_embeddings.weight"
EXTRACT = ExtractStart(units="random")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = toy_recipe(tmp_path_factory.mktemp("in"), steps=4)
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"start": EXTRACT})})


def general(recipe: Recipe, **training: Any) -> StageConfig:
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    changed = {"frozen": "word_embeddings"} | training
    return config.model_copy(update={"training": config.training.model_copy(update=changed)})


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("perturbation", [None, 1.0])
def test_all_other_gradients_equal_those_of_an_unfrozen_model(
    perturbation: float | None, recipe: Recipe, tmp_path: Path
) -> None:
    whole = make_trainer(general(recipe, frozen="none", gradient_perturbation=perturbation), plain_ports(tmp_path))
    part = make_trainer(general(recipe, gradient_perturbation=perturbation), plain_ports(tmp_path))
    assert whole.parameters.keys() - part.parameters.keys() == {TABLE}
    for trainer in (whole, part):
        trainer.accumulate()
    expected = gradients(whole)
    del expected[TABLE]
    assert gradients(part).keys() == expected.keys()
    for name, gradient in gradients(part).items():
        assert torch.equal(gradient, expected[name]), name


def test_accumulation_does_not_change_perturbed_gradients(recipe: Recipe, tmp_path: Path) -> None:
    results = []
    for budget in (8192, 40):
        ports = plain_ports(tmp_path, microbatch_tokens=budget)
        trainer = make_trainer(general(recipe, gradient_perturbation=1.0), ports)
        assert (len(trainer.batches.step(0)) > 1) == (budget == 40)
        trainer.accumulate()
        results.append(gradients(trainer))
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_frozen_table_is_unchanged_and_absent_from_moments_and_norm(recipe: Recipe, tmp_path: Path) -> None:
    sink = MetricList()
    decay = recipe.stages[0].training.optimizer.model_copy(update={"weight_decay": 1.0})
    trainer = make_trainer(general(recipe, optimizer=decay), plain_ports(tmp_path, sink=sink, gradient_share_every=1))
    before = {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}
    trainer.gradient()
    squares = [gradient.double().square().sum() for gradient in gradients(trainer).values()]
    assert trainer.clip() == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-5)
    shares = [value for _, point in sink.points for key, value in point.items() if "gradient_share" in key]
    assert sum(shares) == pytest.approx(1.0)
    trainer.optimizer.zero_grad()
    trainer.train_step()
    still = {name for name, tensor in trainer.student.state_dict().items() if torch.equal(tensor, before[name])}
    assert "embeddings.word_embeddings.weight" in still
    assert all("pool" in name or "word" in name or not name.endswith("weight") for name in still), still
    held = {name for name in trainer.state.saved(teachers_cached=False).tensors if name.startswith("optimizer.")}
    assert not [name for name in held if "word_embeddings" in name]
    whole = make_trainer(general(recipe, frozen="none"), plain_ports(tmp_path))
    whole.train_step()
    sizes = [
        sum(t.numel() for t in trained.state.saved(teachers_cached=False).tensors.values())
        for trained in (whole, trainer)
    ]
    table = trainer.student.get_input_embeddings().weight  # type: ignore[operator]
    assert sizes[0] - sizes[1] == 2 * table.numel() + 1  # two moments and the step's number


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_resumed_stage_ends_bit_for_bit_like_an_uninterrupted_one(
    recipe: Recipe, tmp_path: Path, stop_at: int
) -> None:
    whole = run_stage(general(recipe), None, plain_ports(tmp_path / "whole"))
    states, asked = MemoryStates(), []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == stop_at

    with pytest.raises(Interrupted, match=f"step {stop_at} of 4"):
        run_stage(general(recipe), None, plain_ports(tmp_path / "cut", states=states, stop_requested=stop))
    resumed = run_stage(general(recipe), None, plain_ports(tmp_path / "cut", states=states))
    ends = [
        read_tensors(Path(result.checkpoint.path) / file)
        for file in ("model/model.safetensors", "projections.safetensors")
        for result in (whole, resumed)
    ]
    for whole_ending, resumed_ending in (ends[:2], ends[2:]):
        assert whole_ending.keys() == resumed_ending.keys()
        assert all(torch.equal(whole_ending[name], resumed_ending[name]) for name in whole_ending)


def test_a_masked_language_head_keeps_the_shared_table_and_trains_its_other_weights(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = general(recipe).model_copy(update={"objective": MaskedLanguageObjective(soft_label=None)})
    trainer = make_trainer(config, plain_ports(tmp_path))
    student: Any = trainer.student
    assert student.cls.predictions.decoder.weight is student.get_input_embeddings().weight
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    trainer.train_step()
    after = student.state_dict()
    assert torch.equal(after["cls.predictions.decoder.weight"], before["cls.predictions.decoder.weight"])
    for name in ("cls.predictions.bias", "cls.predictions.transform.dense.weight"):
        assert not torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_every_family_can_be_frozen(family: str, recipe: Recipe) -> None:
    from transformers import AutoModel

    model = AutoModel.from_config(family_config(family))
    names = {name for name, _ in named_parameters(model, nn.Module())}
    freeze(model, recipe.stages[0].training.model_copy(update={"frozen": "word_embeddings"}))
    left_out = names - {name for name, _ in named_parameters(model, nn.Module())}
    (name,) = left_out
    table = model.get_parameter(name.removeprefix("student."))
    assert len(table) == model.config.vocab_size
    model(input_ids=torch.tensor([[2, 7, 8, 3]])).last_hidden_state.sum().backward()
    assert table.grad is None


def test_a_random_table_is_never_frozen(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in") | {"baselines": ["hard_labels"]}
    content["stages"][-1]["training"] = content["stages"][-1]["training"] | {"frozen": "word_embeddings"}
    last = Recipe.model_validate(content)
    assert last.stages[-1].training.frozen == "word_embeddings"
    assert baseline_config(last, tokens=10).training.frozen == "none"
    content["student"]["start"] = {"kind": "extract"}
    assert baseline_config(Recipe.model_validate(content), tokens=10).training.frozen == "word_embeddings"
    content["student"]["start"] = {"kind": "random"}
    content["stages"][0]["training"] = content["stages"][-1]["training"]
    with pytest.raises(ValidationError, match="would keep random word embeddings as they are; set frozen to none"):
        Recipe.model_validate(content)


def test_a_latent_stage_on_embeddings_alone_still_learns(recipe: Recipe, tmp_path: Path) -> None:
    objective = LatentObjective.model_validate({"terms": [{"kind": "embedding"}]})
    trainer = make_trainer(general(recipe).model_copy(update={"objective": objective}), plain_ports(tmp_path))
    trainer.train_step()
    assert {name for name in trainer.parameters if name.startswith("student.embeddings.pos")}
