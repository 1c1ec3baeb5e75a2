"""Losses on logits against float64 loops over rows and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.losses import confidence_weights, hard_label_loss, soft_label_loss
from tests.unit.stages.losses.arrays import drawn, softmax

B, C, K = 4, 6, 3
WEIGHTS = (0.5, 0.0, 2.0, 1.0)
LABELS = torch.tensor([0, 5, 2, 3])
GROUPS = ((0, 2), (2, 5), (5, 6))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 7.0])
def test_logit_error_is_the_mean_over_classes_at_any_temperature(temperature: float) -> None:
    student, teacher = drawn(B, C, seed=1), drawn(B, C, seed=2)
    loss = soft_label_loss(student, teacher, temperature=temperature, kind="mse")
    expected = sum(np.square(student[b].numpy() - teacher[b].numpy()).mean() for b in range(B))
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    over_temperature = soft_label_loss(student / temperature, teacher / temperature, temperature=1.0, kind="mse")
    assert temperature**2 * over_temperature.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == B


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_row_weights_scale_the_sum_and_not_the_count(kind: str) -> None:
    student, teacher = drawn(B, C, seed=1), drawn(B, C, seed=2)
    options = {"temperature": 2.0, "kind": kind}
    loss = soft_label_loss(student, teacher, row_weights_B=torch.tensor(WEIGHTS, dtype=torch.float64), **options)
    rows = [soft_label_loss(student[[b]], teacher[[b]], **options).total.item() for b in range(B)]
    assert loss.total.item() == pytest.approx(np.dot(WEIGHTS, rows), rel=1e-12)
    assert int(loss.count) == B


def test_soft_label_loss_is_restricted_to_the_group_of_the_label() -> None:
    student = drawn(B, C, seed=1).requires_grad_()
    loss = hard_label_loss(student, LABELS, groups=GROUPS)
    expected = 0.0
    for b, label in enumerate(LABELS.tolist()):
        start, stop = next(group for group in GROUPS if group[0] <= label < group[1])
        probabilities = softmax(student[b, start:stop].detach().numpy())
        expected -= np.log(probabilities[label - start])
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == B
    loss.total.backward()
    assert not student.grad[0, 2:].any()
    assert not student.grad[1].any(), "the only class of its group has probability 1"
    assert not student.grad[2:, [0, 1, 5]].any()


def test_a_single_group_gives_the_ungrouped_loss() -> None:
    student = drawn(B, C, seed=1)
    grouped = hard_label_loss(student, LABELS, groups=((0, C),)).total.item()
    assert grouped == pytest.approx(hard_label_loss(student, LABELS).total.item(), rel=1e-12)


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), 1e4])
def test_logits_outside_a_rows_group_do_not_affect_its_loss(logit: float) -> None:
    student, label = drawn(1, C, seed=1), torch.tensor([3])
    expected = hard_label_loss(student, label, groups=GROUPS).total.item()
    student[0, [0, 1, 5]] = logit
    student.requires_grad_()
    loss = hard_label_loss(student, label, groups=GROUPS)
    loss.total.backward()
    assert loss.total.item() == expected
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("groups", [((0, 2), (3, 6)), ((0, 4), (2, 6)), ((0, 2),)])
def test_groups_must_partition_the_classes(groups: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(AssertionError, match="do not partition the classes"):
        hard_label_loss(drawn(B, C), LABELS, groups=groups)


def test_a_more_accurate_teacher_gets_a_larger_weight() -> None:
    teachers = drawn(K, B, C, seed=1)
    weights = confidence_weights(teachers, LABELS)
    for b, label in enumerate(LABELS.tolist()):
        costs = [-np.log(softmax(teachers[k, b].numpy())[label]) for k in range(K)]
        expected = (1 - softmax(np.array(costs))) / (K - 1)
        assert weights[:, b].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
        assert int(weights[:, b].argmax()) == int(np.argmin(costs))


@given(num_teachers=st.integers(1, 5), scale=st.sampled_from([0.0, 1.0, 1e4]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_the_weights_of_a_row_sum_to_one(num_teachers: int, scale: float, seed: int) -> None:
    teachers = (drawn(num_teachers, B, C, seed=seed) * scale).bfloat16().requires_grad_()
    weights = confidence_weights(teachers, LABELS)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    assert weights.sum(0).tolist() == pytest.approx([1.0] * B, rel=1e-6)
    assert bool((weights >= 0).all())


def test_a_single_teacher_has_weight_one() -> None:
    assert confidence_weights(drawn(1, B, C), LABELS).tolist() == [[1.0] * B]
