"""The contrastive loss against float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.losses import angular_contrastive_loss
from tests.unit.stages.losses.arrays import drawn

L, N, H = 2, 4, 6
STUDENT_LENGTHS, TEACHER_LENGTHS = (5, 2, 1, 3), (4, 2, 1, 3)
STUDENT_MASK = torch.arange(5)[None, :] < torch.tensor(STUDENT_LENGTHS)[:, None]
TEACHER_MASK = torch.arange(4)[None, :] < torch.tensor(TEACHER_LENGTHS)[:, None]


def all_rows() -> tuple[Tensor, Tensor]:
    return drawn(L, N, 5, H, seed=1), drawn(L, N, 4, H, seed=2)


def distance(student: Tensor, teacher: Tensor, i: int, j: int) -> float:
    cosines = []
    for layer in range(L):
        for token in range(min(STUDENT_LENGTHS[i], TEACHER_LENGTHS[j])):
            a, b = student[layer, i, token].numpy(), teacher[layer, j, token].numpy()
            cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    return 1 - float(np.mean(cosines))


def expected(student: Tensor, teacher: Tensor, rows: list[int]) -> float:
    total = 0.0
    for i in rows:
        others = sum(distance(student, teacher, i, j) for j in range(N) if j != i)
        total += 1 - others / (2 * (N - 1)) + distance(student, teacher, i, i)
    return total


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 0], [3]])
def test_the_loss_contrasts_each_row_with_all_rows_of_the_step(rows: list[int]) -> None:
    student, teacher = all_rows()
    loss = angular_contrastive_loss(student[:, rows], teacher, STUDENT_MASK[rows], TEACHER_MASK, torch.tensor(rows))
    assert loss.total.item() == pytest.approx(expected(student, teacher, rows), rel=1e-12)
    assert int(loss.count) == len(rows)


def test_without_padding_the_loss_is_the_published_ports_divided_by_the_number_of_layers() -> None:
    student, teacher = drawn(L, N, 3, H, seed=1), drawn(L, N, 3, H, seed=2)
    all_real, rows = torch.ones(N, 3), torch.arange(N)
    loss = angular_contrastive_loss(student, teacher, all_real, all_real, rows)
    cosine = np.zeros((N, N))
    for layer in range(L):
        for token in range(3):
            a, b = student[layer, :, token].numpy(), teacher[layer, :, token].numpy()
            lengths = np.sqrt(np.outer((a * a).sum(1), (b * b).sum(1)))
            cosine += a @ b.T / lengths / (L * 3)
    distances = 1 - cosine
    matching = np.diag(distances)
    port = L * np.mean(1 - (distances.sum(1) - matching) / (N - 1) / 2 + matching)
    assert L * loss.mean().item() == pytest.approx(port, rel=1e-12)


def test_the_loss_of_a_single_row_is_zero() -> None:
    student, teacher = all_rows()
    loss = angular_contrastive_loss(
        student[:, :1], teacher[:, :1], STUDENT_MASK[:1], TEACHER_MASK[:1], torch.tensor([0])
    )
    assert loss.total.item() == pytest.approx(1 + distance(student, teacher, 0, 0), rel=1e-12)


def test_a_row_of_padding_has_distance_one_and_zero_gradient() -> None:
    student, teacher = all_rows()
    student = student[:, :1].fill_(float("nan")).requires_grad_()
    nothing = torch.zeros(1, 5)
    loss = angular_contrastive_loss(student, teacher, nothing, TEACHER_MASK, torch.tensor([0]))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(1 - 0.5 + 1)
    assert not student.grad.any()
