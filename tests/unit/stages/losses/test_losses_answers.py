"""Losses of values, label sets, spans, choices and vectors against float64 loops over rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.losses import (
    choice_loss,
    hard_label_loss,
    multi_label_loss,
    soft_choice_loss,
    soft_multi_label_loss,
    soft_span_loss,
    span_loss,
    value_loss,
    vector_loss,
)
from tests.unit.stages.losses.arrays import drawn, softmax

B, C, S, H = 3, 4, 6, 5
LENGTHS = (6, 4, 2)
MASK = torch.arange(S)[None, :] < torch.tensor(LENGTHS)[:, None]
LABELS = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_regression_loss_is_the_squared_error() -> None:
    student, target = drawn(B, seed=1), drawn(B, seed=2)
    loss = value_loss(student, target)
    expected = sum((float(student[b]) - float(target[b])) ** 2 for b in range(B))
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == B


def test_label_set_loss_is_the_mean_of_independent_binary_cross_entropies() -> None:
    student = drawn(B, C, seed=1)
    expected = 0.0
    for b in range(B):
        for c in range(C):
            yes = sigmoid(float(student[b, c]))
            expected -= math.log(yes if LABELS[b, c] else 1 - yes) / C
    loss = multi_label_loss(student, LABELS)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    whole = torch.nn.BCEWithLogitsLoss()(student, LABELS.double())  # what transformers computes
    assert loss.mean().item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_label_set_loss_is_the_divergence_of_bernoulli_distributions(temperature: float) -> None:
    student, teacher = drawn(B, C, seed=1), drawn(B, C, seed=2)
    expected = 0.0
    for b in range(B):
        for c in range(C):
            target = sigmoid(float(teacher[b, c]) / temperature)
            predicted = sigmoid(float(student[b, c]) / temperature)
            expected += target * math.log(target / predicted) / C
            expected += (1 - target) * math.log((1 - target) / (1 - predicted)) / C
    loss = soft_multi_label_loss(student, teacher, temperature=temperature)
    assert loss.total.item() == pytest.approx(temperature**2 * expected, rel=1e-9)
    assert soft_multi_label_loss(teacher, teacher, temperature=temperature).total.item() == pytest.approx(0, abs=1e-12)
    error = soft_multi_label_loss(student, teacher, temperature=temperature, kind="mse").total
    assert error.item() == pytest.approx(float(((student - teacher) ** 2).mean(-1).sum()))


def test_span_loss_is_the_cross_entropy_of_both_ends_over_tokens() -> None:
    student = drawn(B, S, 2, seed=1)
    student[~MASK] = float("nan")  # the values at padding
    positions = torch.tensor([[5, 5], [0, 0], [1, 1]])
    expected = 0.0
    for b, length in enumerate(LENGTHS):
        for end in range(2):
            probabilities = softmax(student[b, :length, end].numpy())
            expected -= np.log(probabilities[positions[b, end]]) / 2
    student.requires_grad_()
    loss = span_loss(student, positions, MASK)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    loss.total.backward()
    assert student.grad.isfinite().all()
    assert not student.grad[~MASK].any()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_span_loss_is_the_kl_divergence_over_tokens(temperature: float) -> None:
    student, teacher = drawn(B, S, 2, seed=1), drawn(B, S, 2, seed=2)
    for answers in (student, teacher):
        answers[~MASK] = float("nan")
    expected = 0.0
    for b, length in enumerate(LENGTHS):
        for end in range(2):
            target = softmax(teacher[b, :length, end].numpy() / temperature)
            predicted = softmax(student[b, :length, end].numpy() / temperature)
            expected += float((target * np.log(target / predicted)).sum()) / 2
    loss = soft_span_loss(student, teacher, MASK, temperature=temperature)
    assert loss.total.item() == pytest.approx(temperature**2 * expected, rel=1e-9)
    error = soft_span_loss(student, teacher, MASK, temperature=1.0, kind="mse").total.item()
    rows = [((student[b, :length] - teacher[b, :length]) ** 2).mean().item() for b, length in enumerate(LENGTHS)]
    assert error == pytest.approx(sum(rows), rel=1e-12)


def test_choice_loss_is_the_cross_entropy_within_a_row() -> None:
    student = drawn(B, S, seed=1)
    student[~MASK] = float("nan")  # where a row has fewer choices than another
    labels = torch.tensor([5, -1, 1])
    expected = -sum(np.log(softmax(student[b, : LENGTHS[b]].numpy())[labels[b]]) for b in (0, 2))
    student.requires_grad_()
    loss = choice_loss(student, labels, MASK)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == 2, "a row without a label does not count"
    loss.total.backward()
    assert student.grad.isfinite().all()
    assert not student.grad[~MASK].any()
    assert not student.grad[1].any()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_choice_loss_is_the_kl_divergence_within_a_row(temperature: float) -> None:
    student, teacher = drawn(B, S, seed=1), drawn(B, S, seed=2)
    for answers in (student, teacher):
        answers[~MASK] = float("nan")
    expected, errors = 0.0, 0.0
    for b, length in enumerate(LENGTHS):
        target = softmax(teacher[b, :length].numpy() / temperature)
        predicted = softmax(student[b, :length].numpy() / temperature)
        expected += float((target * np.log(target / predicted)).sum())
        errors += float(((student[b, :length] - teacher[b, :length]) ** 2).mean())
    loss = soft_choice_loss(student, teacher, MASK, temperature=temperature)
    assert loss.total.item() == pytest.approx(temperature**2 * expected, rel=1e-9)
    assert int(loss.count) == B
    error = soft_choice_loss(student, teacher, MASK, temperature=temperature, kind="mse")
    assert error.total.item() == pytest.approx(errors, rel=1e-12)


def test_vector_loss_is_the_cosine_distance_or_the_squared_error() -> None:
    student, teacher = drawn(B, H, seed=1), drawn(B, H, seed=2)
    expected = sum(1 - float(a @ b) / float(a.norm() * b.norm()) for a, b in zip(student, teacher, strict=True))
    assert vector_loss(student, teacher).total.item() == pytest.approx(expected, rel=1e-12)
    assert vector_loss(3 * student, teacher).total.item() == pytest.approx(expected, rel=1e-12)
    error = vector_loss(student, teacher, kind="mse").total.item()
    assert error == pytest.approx(float(((student - teacher) ** 2).mean(-1).sum()))


@pytest.mark.parametrize("groups", [None, ((0, 2), (2, 4))])
def test_a_row_without_a_label_is_ignored(groups: tuple[tuple[int, int], ...] | None) -> None:
    student = drawn(B, C, seed=1).requires_grad_()
    labelled = hard_label_loss(student[[0, 2]], torch.tensor([1, 3]), groups=groups)
    loss = hard_label_loss(student, torch.tensor([1, -1, 3]), groups=groups)
    assert loss.total.item() == labelled.total.item()
    assert int(loss.count) == 2
    loss.total.backward()
    assert not student.grad[1].any()
