"""Variants of a recipe by settings alone: lowest blocks, the last block, no dropout, a frozen table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.recipe import Recipe
from stages.models.dropout import Draws
from stages.models.student import dropout
from stages.ports.plain import plain_ports
from stages.run import run_stage
from tests.support.toys import make_trainer, toy_recipe_dict

LOWEST = {"kind": "bottom"}


def variant(folder: Path, *, start: dict[str, Any], objective: dict[str, Any], **training: Any) -> Recipe:
    content = toy_recipe_dict(folder / "in", steps=2)
    content["student"]["start"] = start
    for stage in content["stages"]:
        latent = {"latent": objective} if stage["name"] == "task_specific" else objective
        stage["objective"] = {"kind": "task" if stage["name"] == "task_specific" else "latent", **latent}
    content["stages"][-1]["training"] = content["stages"][-1]["training"] | training
    return Recipe.model_validate(content)


@pytest.mark.parametrize("layers", [LOWEST, {"kind": "explicit", "layers": [0, 1]}])
def test_a_student_of_the_lowest_blocks_matches_the_lowest_blocks(layers: dict[str, Any], tmp_path: Path) -> None:
    start = {"kind": "extract", "units": "random", "layer_map": layers}
    recipe = variant(tmp_path, start=start, objective={"layer_map": layers})
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    trainer = make_trainer(config, plain_ports(tmp_path / "trainer"))
    needs = trainer.objective.teacher_needs(0)
    assert (needs.attention, needs.hidden) == ({0, 1}, {0, 1, 2})
    folder = Path(run_stage(config, None, plain_ports(tmp_path / "run")).checkpoint.path)
    assert json.loads((folder / "extraction.json").read_text(encoding="utf-8"))["layers"] == [0, 1]


def test_the_last_block_alone_is_matched(tmp_path: Path) -> None:
    recipe = variant(tmp_path, start={"kind": "extract"}, objective={"layer_map": {"kind": "last"}})
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    trainer = make_trainer(config, plain_ports(tmp_path))
    assert {term.layer for term in trainer.objective.terms if term.name != "embedding"} == {1}
    assert trainer.objective.teacher_needs(0).attention == {3}


def test_the_last_stage_can_be_without_dropout_and_with_a_frozen_table(tmp_path: Path) -> None:
    recipe = variant(tmp_path, start={"kind": "extract"}, objective={}, dropout=0, frozen="word_embeddings")
    assert [stage.training.dropout for stage in recipe.stages] == [None, None, None, 0]
    assert [stage.training.frozen for stage in recipe.stages] == ["none"] * 3 + ["word_embeddings"]
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    config = config.model_copy(update={"training": recipe.stages[-1].training})
    trainer = make_trainer(config, plain_ports(tmp_path))
    assert isinstance(trainer.draws, Draws)
    batch = trainer.microbatches()[0]

    def states(step: int) -> torch.Tensor:
        with torch.no_grad(), trainer.draws.of(step, batch):
            answers: torch.Tensor = trainer.answers(batch).hidden[2]
        return answers

    assert not torch.equal(states(0), states(1)), "the toy should have dropout"
    with dropout(trainer.student, config.training.dropout):
        assert torch.equal(states(0), states(1))
        assert all(module.p == 0 for module in trainer.student.modules() if isinstance(module, nn.Dropout))
