"""The gradient of an epoch is that of the mean over rows, tokens or pairs, whatever rows share a step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from schemas.core.training import BatchSize
from schemas.data.tasks import TaskData
from schemas.recipe.expand import TaskTeachers, stage_config, teacher_configs
from schemas.recipe.objective import HardLabels, LatentObjective, MaskedLanguageObjective, SoftLabels
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.data.batching.batches import Batches
from stages.data.batching.mixture import Mixture
from stages.data.batching.payloads import RowLabels
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_task
from stages.objective.head_losses import head_losses
from stages.objective.label_terms import hard_label_term, soft_label_terms
from stages.objective.terms import Term, run_model
from stages.ports.plain import plain_ports
from stages.training.divisors import Divisors, StepSize
from stages.training.trainer import Trainer
from tests.support.builders import tiny_tokenizer
from tests.support.kinds import ROWS, kind_task
from tests.support.toys import LATENTS, make_trainer, toy_recipe, toy_recipe_dict, write_rows


def size_of(text: str) -> BatchSize:
    return TypeAdapter(BatchSize).validate_python(text)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("toy"), steps=2)


def general(recipe: Recipe, latent: dict[str, Any], batch: str) -> StageConfig:
    """The general stage with another objective and batch."""
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    objective = LatentObjective.model_validate(latent)
    training = config.training.model_copy(update={"batch": size_of(batch)})
    return config.model_copy(update={"objective": objective, "training": training})


def accumulate_epoch(trainer: Trainer) -> int:
    """Leave the sum of the gradients of the first epoch's steps in the parameters; return the number of steps."""
    steps = trainer.batches.steps_in_epoch(0)
    for step in range(steps):
        trainer.state.step = step
        trainer.accumulate()
    trainer.state.step = 0
    return steps


def divisors_of(trainer: Trainer, step: int) -> tuple[dict[str, float], dict[str, int]]:
    """Divisors and counts of one step."""
    trainer.state.step = step
    batches = trainer.microbatches()
    counts = [trainer.objective.counts(batch) for batch in batches]
    whole = {key: sum(count[key] for count in counts) for key in counts[0]}
    epoch = trainer.batches.epoch_of(step)
    return trainer.divisors.of_step(trainer.objective.terms, epoch, StepSize.of(batches), whole), whole


@pytest.mark.parametrize("batch", ["7 sequences", "90 tokens"])
@pytest.mark.parametrize("name", sorted(LATENTS))
def test_divisors_are_the_counts_of_a_mean_step(name: str, batch: str, recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, LATENTS[name], batch), plain_ports(tmp_path))
    steps = trainer.batches.steps_in_epoch(0)
    by_step = [divisors_of(trainer, step) for step in range(steps)]
    rows = [sum(map(len, trainer.batches.step(step))) for step in range(steps)]
    for term in trainer.objective.terms:
        divisors = [divisor[term.key] for divisor, _ in by_step]
        counts = [count[term.key] for _, count in by_step]
        if term.counted == "lengths":
            assert divisors == [sum(counts) / steps] * steps
        else:
            assert (term.name, term.counted) == ("sample_relation", "rows")
            # Each step's mean weighs as its rows.
            weights = [count / divisor for count, divisor in zip(counts, divisors, strict=True)]
            assert weights == pytest.approx([steps * number / sum(rows) for number in rows], rel=1e-12)


def test_equal_steps_are_divided_by_their_counts(recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, {}, "1000 sequences"), plain_ports(tmp_path))
    divisors, counts = divisors_of(trainer, 0)
    assert divisors == counts


@pytest.mark.parametrize("batch", ["16 sequences", "200 tokens"])
def test_masked_words_weigh_steps_by_their_tokens(batch: str, recipe: Recipe, tmp_path: Path) -> None:
    config = general(recipe, {}, batch)
    config = config.model_copy(update={"objective": MaskedLanguageObjective(soft_label=None)})
    trainer = make_trainer(config, plain_ports(tmp_path))
    steps = trainer.batches.steps_in_epoch(0)
    mean = int(trainer.tokens.lengths.sum()) / steps
    for step in (0, 3, steps - 1):
        divisors, counts = divisors_of(trainer, step)
        weight = trainer.batches.tokens_in_step(step) / mean
        assert counts["hard_label_loss"] / divisors["hard_label_loss"] == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("batch", ["9 sequences", "70 tokens"])
@pytest.mark.parametrize("kind", sorted(ROWS))
def test_labels_are_counted_before_training(kind: str, batch: str, tmp_path: Path) -> None:
    task: Any = TypeAdapter(TaskData).validate_python(kind_task(tmp_path, kind, rows=60))
    rows = load_task(task, tmp_path / "cache")
    train, _ = tokenize_task(rows, tiny_tokenizer(), max_length=task.max_length, cache=tmp_path / "cache")
    if kind == "pair":  # augmented rows have no label
        labels = np.where(np.arange(len(train)) % 3, train.payload_as(RowLabels).labels, -1)
        train = replace(train, payload=RowLabels(labels))
    losses = head_losses(task.problem, scales=(1.0,) * len(rows.labels))
    terms = soft_label_terms(SoftLabels(), (1.0,), losses)
    if kind != "embedding":
        terms.append(hard_label_term(HardLabels(), losses))
    batches = Batches(train.lengths, size_of(batch), 1 << 20, 3, choice_of=train.choice_of)
    steps = batches.steps_in_epoch(0)
    counts = [[term.count(train.batch(rows)) for term in terms] for step in range(steps) for rows in batches.step(step)]
    expected = {term.key: sum(count) / steps for term, count in zip(terms, zip(*counts, strict=True), strict=True)}
    assert Divisors(train, batches).of_step(terms, 0, StepSize(0, 0, 0), {}) == expected
    assert all(expected.values())
    if kind == "pair":
        assert expected["hard_label_loss"] == 40 / steps


def test_each_epoch_of_a_mixture_has_divisors_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, {}, "7 sequences"), plain_ports(tmp_path))
    number = len(trainer.tokens)
    text = replace(trainer.tokens, mixture=Mixture((number // 3, number - number // 3), (1.0, 0.3)))
    batches = Batches(text.lengths, size_of("7 sequences"), 1 << 20, 5, text.mixture)
    (hidden, *_) = (term for term in trainer.objective.terms if term.name == "hidden")
    found = []
    divisors = Divisors(text, batches)
    for epoch in (0, 1, 0):
        steps = batches.steps_in_epoch(epoch)
        tokens = sum(int(text.lengths[rows].sum()) for rows in batches.passes_in_epoch(epoch))
        found.append(divisors.of_step([hidden], epoch, StepSize(0, 0, 0), {})[hidden.key])
        assert found[-1] == tokens / steps
    assert found[0] == found[2] != found[1]


def length_tells(number: int) -> list[dict[str, str]]:
    """Rows whose label follows from their length in four of five cases; `good` ones are short."""
    draw = Random(3)
    rows = []
    for _ in range(number):
        short = draw.random() < 0.6
        label = "good" if short == (draw.random() < 0.8) else "bad"
        words = draw.choices(("warm", "old", "red", "blue"), k=draw.randint(1, 3) if short else draw.randint(9, 14))
        rows.append({"text_a": " ".join(words), "label": label})
    return rows


@pytest.mark.parametrize("batch", ["90 tokens", "16 sequences"])
def test_a_constant_learns_the_mean_over_rows(batch: str, tmp_path: Path) -> None:
    recipe = toy_recipe_dict(tmp_path / "in")
    rows = length_tells(120)
    recipe["task"]["train"] = str(write_rows(tmp_path / "rows.jsonl", rows))
    (config,) = teacher_configs(Recipe.model_validate(recipe))
    training = config.training.model_copy(update={"batch": size_of(batch), "dropout": 0})
    trainer = make_trainer(config.model_copy(update={"training": training}), plain_ports(tmp_path))
    layer: Any = trainer.student.get_submodule("classifier")
    for parameter in trainer.student.parameters():
        parameter.requires_grad_(parameter is layer.bias)
    with torch.no_grad():
        layer.weight.zero_()
    labels = trainer.tokens.payload_as(RowLabels).labels.astype(np.float64)
    for _ in range(5):  # Newton's method with the gradient of the whole epoch, in the difference of both biases
        layer.bias.grad = None
        steps = accumulate_epoch(trainer)
        probability = layer.bias.detach().double().softmax(-1)[1]
        with torch.no_grad():
            layer.bias[1] -= layer.bias.grad[1] / steps / (probability * (1 - probability))
    learnt = float(layer.bias.detach().double().softmax(-1)[1])
    assert learnt == pytest.approx(labels.mean(), abs=1e-6)
    of_steps = [labels[np.concatenate(trainer.batches.step(step))].mean() for step in range(steps)]
    assert (abs(np.mean(of_steps) - labels.mean()) > 0.05) == (batch == "90 tokens"), "the toy should tell them apart"
    # A point of the loss curve over a whole epoch is the mean over its rows as well.
    trainer.meter.reset()
    accumulate_epoch(trainer)
    entropy = -labels.mean() * math.log(learnt) - (1 - labels.mean()) * math.log(1 - learnt)
    assert trainer.meter.means()["hard_label_loss"] == pytest.approx(entropy, rel=1e-5)


def of_rows_alone(trainer: Trainer, counts: dict[str, float]) -> dict[str, Tensor]:
    """The gradient of the weighted means over all rows in float64, one row at a time without padding."""
    for model in (trainer.student, *trainer.teachers.models, trainer.objective):
        model.double()
    trainer.optimizer.zero_grad()
    for row in range(len(trainer.tokens)):
        batch = trainer.tokens.batch(np.array([row]))
        target = trainer.objective.read_teachers(trainer.teachers.models, batch)
        losses = trainer.objective.compute(
            run_model(trainer.student, batch, trainer.objective.student_needs), target, batch
        )
        weights = trainer.objective.weights()
        loss: Any = sum(weights[key] * loss.total / counts[key] for key, loss in losses.items())
        loss.backward()
    return {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("batch", ["16 sequences", "150 tokens"])
def test_a_latent_epoch_is_the_mean_over_tokens_and_pairs(batch: str, recipe: Recipe, tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe, {}, batch), plain_ports(tmp_path, microbatch_tokens=120))
    trainer.student.eval()  # no dropout
    steps = accumulate_epoch(trainer)
    assert len(trainer.batches.step(0)) > 1, "a step should be several forward passes"
    assert len({sum(map(len, trainer.batches.step(step))) for step in range(steps)}) > 1, "the last step is short"
    found = {name: p.grad.double() / steps for name, p in trainer.parameters.items() if p.grad is not None}
    lengths = trainer.tokens.lengths.astype(np.int64)
    heads = trainer.objective.student_config.num_attention_heads
    pairs, tokens = float((lengths**2).sum() * heads), float(lengths.sum())

    def count(term: Term) -> float:
        return pairs if term.name == "attention" else tokens

    expected = of_rows_alone(trainer, {term.key: count(term) for term in trainer.objective.terms})
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
