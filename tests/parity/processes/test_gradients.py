"""One, two and three processes: the same gradient, the same rows, the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.core.training import BatchSize
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.ports.plain import plain_ports
from stages.ports.world import OneProcess, World
from stages.training.trainer import Trainer
from tests.support.ranks import in_processes
from tests.support.toys import LATENTS, make_trainer, toy_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("toy"), steps=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


def general(recipe: Recipe, latent: dict[str, Any], **training: object) -> StageConfig:
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    objective = LatentObjective.model_validate(latent)
    return config.model_copy(update={"objective": objective, "training": config.training.model_copy(update=training)})


@pytest.fixture(scope="module")
def trainers(recipe: Recipe, folder: Path) -> dict[str, Trainer]:
    """A trainer before its first step for every objective, with several forward passes a step where that may be."""
    configs = {name: general(recipe, latent) for name, latent in LATENTS.items()}
    configs["perturbed"] = general(recipe, {}, gradient_perturbation=0.1)
    for name, rows in (("few_rows", 2), ("few_coupled_rows", 2)):
        latent = LATENTS["mgskd" if "coupled" in name else "tinybert"]
        configs[name] = general(recipe, latent, batch=BatchSize(amount=rows, unit="sequences"))
    ports = plain_ports(folder, gradient_share_every=None)
    trainers = {name: make_trainer(config, ports) for name, config in configs.items()}
    for trainer in trainers.values():
        if not trainer.objective.couples_rows:
            trainer.batches.microbatch_tokens = 40
    return trainers


def joined_gradients(trainers: dict[str, Trainer], world: World) -> dict[str, Tensor]:
    with world.joined():
        return gradients_of(trainers, world)


def gradients_of(trainers: dict[str, Trainer], world: World) -> dict[str, Tensor]:
    """Gradient, size and losses of the first step of every objective."""
    results: dict[str, Tensor] = {}
    for name, trainer in trainers.items():
        trainer.world = world
        tokens = trainer.gradient()
        for key, parameter in trainer.parameters.items():
            if parameter.grad is not None:
                results[f"{name} {key}"] = parameter.grad
        results[f"{name} tokens"] = torch.tensor([tokens, trainer.meter.tokens])
        results[f"{name} means"] = torch.tensor(list(trainer.meter.means().values()))
    return results


@pytest.fixture(scope="module")
def together(trainers: dict[str, Trainer], folder: Path) -> dict[int, list[dict[str, Tensor]]]:
    """Those of each process of one, two and three, by their number; made in forked processes, which leave no trace."""
    return {
        number: in_processes(number, lambda world: joined_gradients(trainers, world), folder / str(number))
        for number in (1, 2, 3)
    }


@pytest.mark.parametrize("number", [2, 3])
def test_the_number_of_processes_changes_no_gradient(number: int, together: dict[int, list[dict[str, Tensor]]]) -> None:
    first, *others = together[number]
    assert not differences(first, together[1][0])
    for other in others:
        assert all(torch.equal(tensor, first[key]) for key, tensor in other.items()), "the same bits everywhere"


def test_gradients_differ_where_processes_do_not_add_up(
    trainers: dict[str, Trainer], together: dict[int, list[dict[str, Tensor]]]
) -> None:
    class Deaf(OneProcess):
        size = 2

    tinybert = {"tinybert": trainers["tinybert"]}
    expected = {key: tensor for key, tensor in together[1][0].items() if key.startswith("tinybert ")}
    assert len(differences(gradients_of(tinybert, Deaf()), expected)) > len(expected) / 2


def differences(result: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Tensors that differ by more than 1e-6, and by more than 3e-7 of the largest gradient of their model."""
    assert result.keys() == expected.keys()
    largest: dict[str, float] = {}
    for key, tensor in expected.items():
        name = key.partition(" ")[0]
        largest[name] = max(largest.get(name, 0.0), float(tensor.abs().max()))
    far = {}
    for key, tensor in expected.items():
        difference = float((result[key] - tensor).abs().max())
        if difference > max(1e-6, 3e-7 * largest[key.partition(" ")[0]]):
            far[key] = difference
    return far
