"""Attention probabilities against float64 loops over heads and tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.losses import attention_probability_loss, attention_scores
from tests.unit.stages.losses.arrays import LENGTHS, A, B, D, S, drawn, softmax

MASK = torch.arange(S)[None, :] < torch.tensor(LENGTHS)[:, None]

ROWS = {
    "kl": lambda p, q: float((q * np.log(q / p)).sum()),
    "mse": lambda p, q: float(np.square(p - q).sum()),
    "cosine": lambda p, q: float(1 - p @ q / np.sqrt((p @ p) * (q @ q))),
}
COUNTS = {"kl": A * sum(LENGTHS), "mse": A * sum(length**2 for length in LENGTHS), "cosine": A * sum(LENGTHS)}


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_the_loss_sums_over_unpadded_queries(kind: str) -> None:
    student, teacher = drawn(B, A, S, S, seed=1), drawn(B, A, S, S, seed=2)
    loss = attention_probability_loss(student, teacher, MASK, kind=kind)
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for a in range(A):
            for i in range(length):
                p = softmax(student[b, a, i, :length].numpy())
                q = softmax(teacher[b, a, i, :length].numpy())
                total += ROWS[kind](p, q)
    assert loss.total.item() == pytest.approx(total, rel=1e-12)
    assert int(loss.count) == COUNTS[kind]


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_the_loss_is_invariant_to_a_constant_added_to_a_querys_scores(kind: str) -> None:
    student, teacher = drawn(B, A, S, S, seed=1), drawn(B, A, S, S, seed=2)
    plain = attention_probability_loss(student, teacher, MASK, kind=kind).total.item()
    moved = attention_probability_loss(student + drawn(B, A, S, 1), teacher, MASK, kind=kind)
    assert moved.total.item() == pytest.approx(plain, rel=1e-12)


def test_captured_scores_with_zeros_at_padding_need_no_masking() -> None:
    queries, keys = drawn(B, A, S, D, seed=1), drawn(B, A, S, D, seed=2)
    student = attention_scores(queries, keys, MASK, scaling=0.5)
    teacher = drawn(B, A, S, S, seed=3)
    everywhere = torch.matmul(0.5 * queries, keys.transpose(-1, -2))
    assert torch.equal(
        attention_probability_loss(student, teacher, MASK, kind="kl").total,
        attention_probability_loss(everywhere, teacher, MASK, kind="kl").total,
    )


def test_the_divergence_of_disjoint_distributions_is_the_difference_of_their_scores() -> None:
    student, teacher = torch.tensor([[[[1e4, -1e4]] * 2]]), torch.tensor([[[[-1e4, 1e4]] * 2]])
    both = torch.ones(1, 2, dtype=torch.bool)
    student.requires_grad_()
    loss = attention_probability_loss(student, teacher, both, kind="kl")
    loss.total.backward()
    assert loss.mean().item() == pytest.approx(2e4)
    assert student.grad.flatten().tolist() == pytest.approx([1, -1, 1, -1])
