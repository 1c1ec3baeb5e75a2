"""Relations against float64 loops over heads, tokens and rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.losses import relation_loss
from tests.unit.stages.losses.arrays import LENGTHS, B, S, drawn, softmax

MASK = torch.arange(S)[None, :] < torch.tensor(LENGTHS)[:, None]

STUDENT_HEADS, STUDENT_WIDTH, TEACHER_HEADS, TEACHER_WIDTH = 3, 4, 2, 12


@pytest.fixture
def student() -> Tensor:
    return drawn(B, STUDENT_HEADS, S, STUDENT_WIDTH, seed=1)


@pytest.fixture
def teacher() -> Tensor:
    return drawn(B, TEACHER_HEADS, S, TEACHER_WIDTH, seed=2)


def part(tensor: Tensor, b: int, i: int, head: int, num_heads: int) -> np.ndarray:
    """Return a token's vector in one relation head: the concatenated heads, split into equal parts."""
    whole = np.concatenate([tensor[b, a, i].numpy() for a in range(tensor.shape[1])])
    return np.split(whole, num_heads)[head]


def divergence(
    student: Tensor, teacher: Tensor, num_heads: int, query: tuple[int, int, int], keys: list[tuple[int, int, int]]
) -> float:
    """KL divergence of the relations of one (row, token, head), teacher first."""
    distributions = []
    for tensor in (teacher, student):
        vector = part(tensor, *query, num_heads)
        scores = [vector @ part(tensor, *key, num_heads) / math.sqrt(len(vector)) for key in keys]
        distributions.append(softmax(np.array(scores)))
    teachers, students = distributions
    return float((teachers * np.log(teachers / students)).sum())


def related(across: str, b: int, i: int, head: int, num_heads: int) -> list[tuple[int, int, int]]:
    if across == "tokens":
        return [(b, j, head) for j in range(LENGTHS[b])]
    if across == "heads":
        return [(b, i, head) for head in range(num_heads)]
    return [(row, i, head) for row in range(B) if i < LENGTHS[row]]


@pytest.mark.parametrize("across", ["tokens", "heads", "samples"])
@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_relation_loss_is_the_kl_divergence_summed_over_heads_and_tokens(
    student: Tensor, teacher: Tensor, across: str, num_heads: int
) -> None:
    loss = relation_loss(student, teacher, MASK, num_heads=num_heads, across=across)
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for i in range(length):
            for head in range(num_heads):
                keys = related(across, b, i, head, num_heads)
                total += divergence(student, teacher, num_heads, (b, i, head), keys)
    assert loss.total.item() == pytest.approx(total, rel=1e-11, abs=1e-14)
    assert int(loss.count) == num_heads * sum(LENGTHS)


def test_without_relation_heads_the_models_heads_are_used(teacher: Tensor) -> None:
    student = drawn(B, TEACHER_HEADS, S, STUDENT_WIDTH, seed=3)
    default = relation_loss(student, teacher, MASK, num_heads=None)
    split = relation_loss(student, teacher, MASK, num_heads=TEACHER_HEADS)
    assert torch.equal(default.total, split.total)
    assert torch.equal(default.count, split.count)


def test_relations_are_invariant_to_rotation_of_a_head() -> None:
    student, teacher = drawn(B, 2, S, 6, seed=1), drawn(B, 2, S, 6, seed=2)
    turn = torch.linalg.qr(drawn(6, 6, seed=3))[0]
    plain = relation_loss(student, teacher, MASK, num_heads=None).total.item()
    turned = relation_loss(student @ turn, teacher, MASK, num_heads=None).total.item()
    assert turned == pytest.approx(plain, rel=1e-10)


def test_head_counts_that_do_not_divide_both_widths_are_refused_with_those_that_do() -> None:
    student, teacher = drawn(B, 12, S, 26), drawn(B, 12, S, 64)
    with pytest.raises(ValueError, match="48 relation heads do not split") as refusal:
        relation_loss(student, teacher, MASK, num_heads=48)
    message = str(refusal.value)
    assert "student's width of 312" in message
    assert "teacher's of 768" in message
    assert message.endswith("1, 2, 3, 4, 6, 8, 12, 24")


@pytest.mark.parametrize("num_heads", [0, -2])
def test_fewer_than_one_head_is_refused(student: Tensor, teacher: Tensor, num_heads: int) -> None:
    with pytest.raises(ValueError, match=r"1, 2, 3, 4, 6, 12$"):
        relation_loss(student, teacher, MASK, num_heads=num_heads)


def test_without_relation_heads_both_models_need_equal_head_counts(student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(ValueError, match="3 heads of the student and 2 of the teacher"):
        relation_loss(student, teacher, MASK, num_heads=None)
