"""A teacher of several tasks, with classes and values: each row is compared only on its task's outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import pearsonr, spearmanr
from transformers import AutoModelForSequenceClassification

from schemas.recipe.expand import teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.data.batching.payloads import Labels, RowLabels
from stages.data.batching.tokens import Batch, Tokens
from stages.models.attention_capture import Recording
from stages.objective.terms import Outputs
from stages.ports.plain import plain_ports
from stages.run import run_stage
from stages.stage_data import load_data
from stages.training.trainer import Trainer
from tests.support.builders import tiny_tokenizer
from tests.support.kinds import kind_rows, kind_task
from tests.support.toys import make_trainer, toy_recipe_dict

NAMES = ["one/bad", "one/good", "likeness/value", "two/other", "two/same"]


def recipe_of(folder: Path, tasks: dict[str, Any] | None = None) -> Recipe:
    """A recipe with classes of texts, values and classes of pairs, and one teacher for all."""
    content = toy_recipe_dict(folder, steps=3)
    training = content["stages"][0]["training"]
    tasks_of_recipe = tasks or {
        "one": content["task"],
        "likeness": kind_task(folder, "regression", rows=50),
        "two": kind_task(folder, "pair", rows=70),
    }
    content["teacher"]["multi_task"] = {"tasks": tasks_of_recipe, "training": training}
    return Recipe.model_validate(content)


@pytest.fixture
def config(tmp_path: Path) -> StageConfig:
    return teacher_configs(recipe_of(tmp_path / "in"))[-1]


@pytest.fixture
def trainer(config: StageConfig, tmp_path: Path) -> Trainer:
    return make_trainer(config, plain_ports(tmp_path))


def rows_of_all(trainer: Trainer, number: int = 12) -> Batch:
    """Return as many rows of each of the three tasks."""
    starts = np.array([0, 160, 210])
    rows = (starts[:, None] + np.arange(number // 3)[None, :]).ravel()
    return trainer.tokens.batch(rows)


def test_rows_of_all_tasks_are_concatenated(config: StageConfig, tmp_path: Path) -> None:
    data = load_data(config.data, tiny_tokenizer(), tmp_path / "cache")
    assert len(data.train) == 160 + 50 + 70
    assert data.labels == tuple(NAMES)
    labels = data.train.payload_as(RowLabels).labels
    assert set(labels[:160, 0].tolist()) == {0, 1}
    assert set(labels[160:210, 0].tolist()) == {2}
    assert set(labels[210:, 0].tolist()) == {3, 4}
    values = [row["label"] for row in kind_rows("regression", 50, 1)]
    np.testing.assert_allclose(labels[160:210, 1], values)
    assert not labels[:160, 1].any()
    part = data.parts["likeness"].train
    first, again = part.batch(np.array([3])), data.train.batch(np.array([163]))
    assert torch.equal(first.input_ids, again.input_ids)


def expected_loss(logits: np.ndarray, labels: list[list[float]]) -> float:
    """Cross entropy over the task's classes, or squared error of the task's value in deviations."""
    total, scale = 0.0, np.std([row["label"] for row in kind_rows("regression", 50, 1)])
    for row, (output, value) in zip(logits, labels, strict=True):
        if output == 2:
            total += float(((row[2] - value) / scale) ** 2)
        else:
            start = 0 if output < 2 else 3
            task_logits = row[start : start + 2]
            total += float(np.log(np.exp(task_logits).sum()) - task_logits[int(output) - start])
    return total


def test_each_row_is_compared_on_the_outputs_of_its_task(trainer: Trainer) -> None:
    batch = rows_of_all(trainer)
    logits = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    (term,) = trainer.objective.terms
    loss = term.compute(Outputs({}, Recording(()), logits), None, batch)
    expected = expected_loss(logits.detach().numpy(), batch.targets_as(Labels).values.tolist())
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-7)
    assert int(loss.count) == term.count(batch) == 12
    (gradient,) = torch.autograd.grad(loss.total, logits)
    touched = (gradient != 0).numpy()
    assert touched[:4].tolist() == [[True, True, False, False, False]] * 4
    assert touched[4:8].tolist() == [[False, False, True, False, False]] * 4
    assert touched[8:].tolist() == [[False, False, False, True, True]] * 4


def test_a_row_without_a_label_is_ignored(trainer: Trainer) -> None:
    batch = rows_of_all(trainer)
    labels = batch.targets_as(Labels).values.clone()
    labels[[1, 5]] = torch.nan
    logits = torch.randn(12, 5, dtype=torch.float64)
    known = [index for index in range(12) if index not in (1, 5)]
    batch = replace(batch, targets=Labels(labels))
    loss = trainer.objective.terms[0].compute(Outputs({}, Recording(()), logits), None, batch)
    expected = expected_loss(logits.numpy()[known], labels[known].tolist())
    assert float(loss.total) == pytest.approx(expected, rel=1e-7)
    assert int(loss.count) == trainer.objective.terms[0].count(batch) == 10


def test_joined_labels_keep_missing_labels_missing() -> None:
    def tokens(labels: np.ndarray) -> Tokens:
        number = len(labels)
        return Tokens(
            np.arange(number, dtype=np.int32),
            np.ones(number, np.int32),
            None,
            RowLabels(labels),
            0,
            "d",
            starts=np.arange(number),
        )

    classes, values = tokens(np.array([1, -1])), tokens(np.array([2.5, np.nan], np.float32))
    joined = Tokens.joined([classes, values, classes], [2, 1, 2]).payload_as(RowLabels).labels
    unknown = [np.nan, np.nan]
    np.testing.assert_array_equal(joined, [[1, 0], unknown, [2, 2.5], unknown, [4, 0], unknown])


def test_a_stage_scores_each_task_by_its_own_metric(config: StageConfig, tmp_path: Path) -> None:
    ports = plain_ports(tmp_path)
    result = run_stage(config, None, ports)
    model = AutoModelForSequenceClassification.from_pretrained(Path(result.checkpoint.path) / "model").eval()
    assert list(model.config.id2label.values()) == NAMES
    data = load_data(config.data, tiny_tokenizer(), ports.cache)
    scores: dict[str, float] = {}
    for name, part in data.parts.items():
        batch = part.validation.batch(np.arange(60))
        with torch.no_grad():
            logits = model(**batch.model_inputs()).logits.numpy()[:, part.outputs]
        labels = part.validation.payload_as(RowLabels).labels
        if name == "likeness":
            predictions = logits[:, 0]
            score = (pearsonr(labels, predictions).statistic + spearmanr(labels, predictions).statistic) / 2
            scores[name] = float(score)
            assert result.metrics["eval/pearson_spearman/likeness"] == pytest.approx(score, abs=1e-5)
        else:
            scores[name] = float((logits.argmax(-1) == labels).mean())
            assert result.metrics[f"eval/accuracy/{name}"] == pytest.approx(scores[name])
    mean = sum(scores.values()) / 3
    assert result.metrics["eval/mean_score"] == pytest.approx(mean, abs=1e-5)
    accuracy = (scores["one"] + scores["two"]) / 2
    assert result.metrics["eval/accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("kind", ["multi_label", "token_classification", "question_answering", "multiple_choice"])
def test_tasks_with_unsupported_kinds_are_refused(kind: str, tmp_path: Path) -> None:
    tasks = {"one": kind_task(tmp_path, "pair"), "more": kind_task(tmp_path, kind)}
    with pytest.raises(ValidationError, match=f"a {kind} task needs more; leave it out"):
        recipe_of(tmp_path / "in", tasks)
