"""Stages with augmented rows: copies are labelled by the teacher alone, and interrupted stages resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from schemas.core.errors import Interrupted
from schemas.core.training import Selection
from schemas.data.augmentation import Augmentation
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import stage_config, task_teachers
from schemas.recipe.recipe import Recipe
from stages.augmentation.task import Augmenter
from stages.data.batching.payloads import RowLabels
from stages.data.tasks.load import load_task
from stages.identity import data_digest, stage_digest
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.ports.plain import MemoryStates, SilentProgress, plain_ports
from stages.run import run_stage
from stages.stage_data import load_data
from tests.support.kinds import kind_recipe_dict
from tests.support.toys import toy_recipe_dict, toy_teacher

COPIES = 3


def recipe_of(folder: Path, kind: str | None = None, **augmentation: Any) -> Recipe:
    recipe = toy_recipe_dict(folder) if kind is None else kind_recipe_dict(folder, kind)
    teacher = toy_teacher(folder / "given", labels=("bad", "good"))
    if kind is None:
        recipe["teacher"]["task_model"] = {"kind": "given", "model": str(teacher)}
    recipe["augmentation"] = {"copies": COPIES} | augmentation
    recipe["stages"][2]["data"] = recipe["stages"][3]["data"] = "augmented_task_data"
    return Recipe.model_validate(recipe)


def data_of(recipe: Recipe, cache: Path, selection: Selection | None = None) -> Any:
    assert recipe.task is not None
    data = TaskDataset(task=recipe.task, augmentation=recipe.augmentation)
    folder = locate(recipe.pretrained)
    augmenter = Augmenter(folder, SilentProgress())
    tokenizer = load_tokenizer(folder, load_config(folder))
    return load_data(data, tokenizer, cache, selection, augmenter)


@pytest.mark.parametrize("kind", [None, "pair", "regression", "multi_label"])
def test_rows_keep_their_labels_and_copies_have_none(kind: str | None, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, kind)
    assert recipe.task is not None
    rows = load_task(recipe.task, tmp_path / "cache")
    data = data_of(recipe, tmp_path / "cache")
    number = len(rows.train)
    assert number < len(data.train) <= (1 + COPIES) * number
    assert len(data.held_out) == len(rows.validation)
    labels = np.asarray(data.train.payload_as(RowLabels).labels)
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0
    known = known if known.ndim == 1 else known.all(-1)
    assert known.sum() == number
    np.testing.assert_allclose(labels[known], np.asarray(rows.train["label"]), rtol=1e-6)


def test_copies_of_held_out_rows_are_held_out_too(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    selection = Selection(rows="held_out")
    data = data_of(recipe, tmp_path / "cache", selection)
    part = data.parts[""]
    assert part.held_out is not None
    assert (
        (np.asarray(data.train.payload_as(RowLabels).labels) >= 0).sum()
        == len(part.rows_learnt())
        < len(part.rows.train)
    )


def test_copies_are_learnt_from_the_teacher_alone_and_the_stage_resumes_exactly(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    config = stage_config(recipe, recipe.stages[3], task_teachers(recipe, {}))
    whole = run_stage(config, None, plain_ports(tmp_path / "whole"))
    assert whole.metrics["train/soft_label_loss"] >= 0
    states = MemoryStates()
    # Stops are also requested between passes of the copies: nothing is finished then, and the next run restarts them.
    stops = iter([True])
    for answers in (stops, iter([False] * 40 + [True]), iter([])):
        ports = plain_ports(tmp_path / "stopped", states=states, stop_requested=lambda a=answers: next(a, False))
        try:
            again = run_stage(config, None, ports)
        except Interrupted:
            continue
    whole_weights, resumed_weights = (
        load_file(Path(result.checkpoint.path) / "model" / "model.safetensors") for result in (whole, again)
    )
    assert all(bool((whole_weights[name] == resumed_weights[name]).all()) for name in whole_weights)


def test_augmentation_is_part_of_a_stages_identity(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    reseeded = recipe.model_copy(update={"augmentation": Augmentation(copies=COPIES, seed=1)})
    digests = set()
    for variant in (recipe, reseeded):
        teachers = task_teachers(variant, {})
        adaptive, general = (stage_config(variant, variant.stages[index], teachers) for index in (2, 0))
        digests.add((stage_digest(adaptive, None), data_digest(adaptive.data, variant.pretrained)))
        digests.add(stage_digest(general, None))
    assert len(digests) == 3, "both task stages change, and the general stage is shared"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("token_classification", "positions in the text, which shift in copies"),
        ("question_answering", "positions in the text, which shift in copies"),
        ("multiple_choice", "only passage and question are copied"),
    ],
)
def test_kinds_with_answers_inside_the_text_are_not_augmented(kind: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        recipe_of(tmp_path, kind)
