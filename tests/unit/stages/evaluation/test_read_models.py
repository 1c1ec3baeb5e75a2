"""The yardstick: its rows, its features, and its scores compared with plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from schemas.core.kinds import Classification
from schemas.recipe.expand import teacher_configs
from stages.data.tasks.stratified import drawn_rows
from stages.kinds.linear_probe import fitted, logistic
from stages.kinds.registry import kind_of
from stages.models.encoders import load_config, load_tokenizer
from stages.models.read import read_rows
from stages.stage_data import load_data
from tests.support.toys import toy_recipe, toy_teacher


def test_rows_are_drawn_reproducibly_from_the_whole_set() -> None:
    assert drawn_rows(5).tolist() == [0, 1, 2, 3, 4]
    assert drawn_rows(5, 9).tolist() == [0, 1, 2, 3, 4]
    drawn = drawn_rows(1000, 100)
    assert len(set(drawn.tolist())) == 100
    assert drawn.max() > 800
    assert np.array_equal(drawn, drawn_rows(1000, 100))


def test_features_and_logits_are_in_row_order(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path / "in")
    folder = toy_teacher(tmp_path / "classifier", labels=("bad", "good"))
    assert recipe.task is not None
    (config,) = teacher_configs(recipe)
    data = load_data(config.data, load_tokenizer(folder, load_config(folder)), tmp_path / "cache")
    model = kind_of(Classification()).head.load(folder)
    rows = np.array([3, 11, 0, 40])
    read = read_rows(model, data.held_out, rows)
    assert read.logits is not None
    for index, row in enumerate(rows):
        batch = data.held_out.batch(np.array([row]))
        with torch.no_grad():
            states = model.base_model(**batch.model_inputs()).last_hidden_state[0]
            logits = model(**batch.model_inputs()).logits[0]
        np.testing.assert_allclose(read.features[index], states.mean(0).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(read.logits[index], logits.numpy(), rtol=1e-4, atol=1e-5)


def test_a_probe_scores_high_only_on_linearly_separable_features() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    telling = draw.normal(size=(400, 5)) + 3 * labels[:, None]
    silent = draw.normal(size=(400, 5))

    def accuracy(features: np.ndarray) -> float:
        probe = fitted(logistic(), features[:200], labels[:200])
        return float((probe.predict(features[200:]) == labels[200:]).mean())

    assert accuracy(telling) > 0.95
    assert 0.35 < accuracy(silent) < 0.65
