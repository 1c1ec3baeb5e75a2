"""Projections between stages: matching ones are reused, unused ones are carried, the others are reinitialised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef
from stages.build import PROJECTIONS
from stages.models.tensors import read_tensors
from stages.ports.plain import SilentProgress, plain_ports
from stages.run import run_stage
from tests.support.toys import toy_recipe

ATTENTION, HIDDEN, EMBEDDING = ({"kind": kind} for kind in ("attention", "hidden", "embedding"))
HIDDEN_MAPS = {f"maps.hidden_{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")}
EMBEDDING_MAP = {"maps.embedding.weight", "maps.embedding.bias"}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return toy_recipe(tmp_path / "in", steps=1)


class Stages:
    """Runs a general stage repeatedly with different terms."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.config = stage_config(recipe, recipe.stages[0], TaskTeachers())
        self.folder, self.number = folder, 0
        self.progress = SilentProgress()

    def run(self, terms: list[dict[str, Any]], parent: CheckpointRef | None = None, **objective: Any) -> CheckpointRef:
        """Return the checkpoint after one step with a negligible learning rate."""
        self.number += 1
        training = self.config.training.model_copy(
            update={"optimizer": self.config.training.optimizer.model_copy(update={"learning_rate": 1e-12})}
        )
        latent = LatentObjective.model_validate({"terms": terms} | objective)
        config: StageConfig = self.config.model_copy(update={"objective": latent, "training": training})
        self.progress = SilentProgress()
        ports = plain_ports(self.folder / str(self.number), progress=self.progress)
        return run_stage(config, parent, ports).checkpoint


def kept(checkpoint: CheckpointRef) -> dict[str, Tensor]:
    return read_tensors(Path(checkpoint.path) / PROJECTIONS)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], names: set[str]) -> None:
    for name in names:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-6, msg=name)


def test_each_projection_that_fits_is_kept_when_a_term_is_added(recipe: Recipe, tmp_path: Path) -> None:
    stages = Stages(recipe, tmp_path)
    first = stages.run([ATTENTION, HIDDEN])
    assert kept(first).keys() == HIDDEN_MAPS
    second = stages.run([ATTENTION, HIDDEN, EMBEDDING], first)
    assert kept(second).keys() == HIDDEN_MAPS | EMBEDDING_MAP
    assert_same(kept(second), kept(first), HIDDEN_MAPS)
    assert not [note for note in stages.progress.notes if "initialised afresh" in note]


def test_unused_projections_are_kept_for_later_stages(recipe: Recipe, tmp_path: Path) -> None:
    stages = Stages(recipe, tmp_path)
    first = stages.run([HIDDEN, EMBEDDING])
    for terms in ([ATTENTION], [HIDDEN]):  # without projections, and with different ones
        between = stages.run(terms, first)
        assert kept(between).keys() == kept(first).keys()
        third = stages.run([EMBEDDING], between)
        assert_same(kept(third), kept(first), EMBEDDING_MAP)


def test_a_projection_of_another_shape_is_reinitialised_and_reported(recipe: Recipe, tmp_path: Path) -> None:
    stages = Stages(recipe, tmp_path)
    first = stages.run([HIDDEN])
    second = stages.run([HIDDEN], first, common_width=12)
    (note,) = [note for note in stages.progress.notes if "initialised afresh" in note]
    assert "maps.hidden_0, maps.hidden_1" in note
    assert kept(second)["maps.hidden_0.weight"].shape == (12, 8)
    assert_same(kept(stages.run([HIDDEN], second, common_width=12)), kept(second), HIDDEN_MAPS)
