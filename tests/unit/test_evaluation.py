"""The yardstick: which rows it looks at, what it reads off a model, and its scores against plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.encoders import load_classifier, load_config, load_tokenizer
from stages.evaluation import (
    drawn_rows,
    logits_of,
    majority_share,
    probe_accuracy,
    read_rows,
    score,
)
from stages.run import load_data
from tests.toys import toy_recipe, toy_teacher


def test_rows_are_drawn_from_everywhere_and_the_same_each_time() -> None:
    assert drawn_rows(5).tolist() == [0, 1, 2, 3, 4]
    assert drawn_rows(5, 9).tolist() == [0, 1, 2, 3, 4]
    drawn = drawn_rows(1000, 100)
    assert len(set(drawn.tolist())) == 100
    assert drawn.max() > 800
    assert np.array_equal(drawn, drawn_rows(1000, 100))


def test_features_and_answers_come_back_in_the_order_of_the_rows(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path / "in")
    folder = toy_teacher(tmp_path / "classifier", labels=("bad", "good"))
    assert recipe.task is not None
    (config,) = recipe.teacher_configs()
    data = load_data(config.data, load_tokenizer(folder, load_config(folder)), tmp_path / "cache")
    model = load_classifier(folder)
    rows = np.array([3, 11, 0, 40])
    read = read_rows(model, data.held_out, rows)
    assert read.logits is not None
    for place, row in enumerate(rows):
        batch = data.held_out.batch(np.array([row]))
        with torch.no_grad():
            states = model.base_model(**batch.model_inputs()).last_hidden_state[0]
            logits = model(**batch.model_inputs()).logits[0]
        np.testing.assert_allclose(
            read.features[place], states.mean(0).numpy(), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(read.logits[place], logits.numpy(), rtol=1e-4, atol=1e-5)
    assert logits_of(model, data.held_out).shape == (len(data.held_out), 2)


def test_a_probe_finds_what_is_linearly_there_and_nothing_else() -> None:
    from stages.evaluation import Read

    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    telling = Read(draw.normal(size=(400, 5)) + 3 * labels[:, None], None)
    silent = Read(draw.normal(size=(400, 5)), None)
    halves = slice(0, 200), slice(200, 400)

    def accuracy(read: Read) -> float:
        first, second = (Read(read.features[half], None) for half in halves)
        return probe_accuracy(first, labels[halves[0]], second, labels[halves[1]])

    assert accuracy(telling) > 0.95
    assert 0.35 < accuracy(silent) < 0.65


def test_scores_are_those_of_the_confusion_matrix() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    answers = np.array([1, 1, 0, 0, 0, 1, 0, 1])
    tp, fp, fn, tn = 3, 1, 1, 3
    assert score("accuracy", labels, answers) == pytest.approx((tp + tn) / 8)
    assert score("f1", labels, answers) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    denominator = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score("matthews", labels, answers) == pytest.approx((tp * tn - fp * fn) / denominator)
    assert majority_share(labels) == 0.5
