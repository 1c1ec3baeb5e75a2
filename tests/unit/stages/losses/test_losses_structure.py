"""Relations of tokens, layers and sequences against float64 loops over pairs and triplets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.losses import (
    layer_angle_loss,
    layer_pair_loss,
    sample_angle_loss,
    token_angle_loss,
    token_pair_loss,
    word_angle_loss,
    word_pair_loss,
)
from tests.unit.stages.losses.arrays import drawn, softmax

B, S, H, T, L = 4, 7, 8, 12, 4
LENGTHS = (7, 5, 2, 1)
MASK = torch.arange(S)[None, :] < torch.tensor(LENGTHS)[:, None]

Vectors = Sequence[np.ndarray]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def angle(vectors: Vectors, vertex: int, left: int, right: int) -> float:
    return cosine(vectors[vertex] - vectors[left], vectors[vertex] - vectors[right])


def pair_divergence(student: Vectors, teacher: Vectors) -> float:
    """KL divergence of each member's cosines to the others, teacher first, summed over the members."""
    total = 0.0
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        if others:
            q = softmax(np.array([cosine(teacher[i], teacher[j]) for j in others]))
            p = softmax(np.array([cosine(student[i], student[j]) for j in others]))
            total += float((q * np.log(q / p)).sum())
    return total


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def squared(difference: float) -> float:
    return difference**2


def triplet_error(
    student: Vectors, teacher: Vectors, triplets: Sequence[tuple[int, int, int]], error: Callable[[float], float]
) -> float:
    return sum(error(angle(student, *triplet) - angle(teacher, *triplet)) for triplet in triplets)


def states() -> tuple[Tensor, Tensor]:
    return drawn(B, S, H, seed=1), drawn(B, S, T, seed=2)


def layered() -> tuple[Tensor, Tensor]:
    return drawn(L, B, S, H, seed=1), drawn(L, B, S, T, seed=2)


def sequences() -> list[tuple[Vectors, Vectors]]:
    """Return the student's and the teacher's vectors of each row's real tokens."""
    student, teacher = states()
    return [(student[b, :n].numpy(), teacher[b, :n].numpy()) for b, n in enumerate(LENGTHS)]


def test_word_pairs_are_compared_by_the_softmax_of_their_cosines() -> None:
    loss = word_pair_loss(*states(), MASK)
    expected = sum(pair_divergence(student, teacher) for student, teacher in sequences())
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == sum(LENGTHS)


@pytest.mark.parametrize("window", [3, 5, 21])
def test_word_angles_are_compared_within_a_window(window: int) -> None:
    loss = word_angle_loss(*states(), MASK, window=window)
    expected, count = 0.0, 0
    for student, teacher in sequences():
        triplets = [
            (i, j, k) for i, j, k in permutations(range(len(student)), 3) if max(abs(i - j), abs(i - k)) <= window // 2
        ]
        expected += triplet_error(student, teacher, triplets, squared)
        count += len(triplets)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == count


def test_an_even_window_is_refused() -> None:
    with pytest.raises(AssertionError):
        word_angle_loss(*states(), MASK, window=4)


def layers_of_tokens() -> list[tuple[Vectors, Vectors]]:
    student, teacher = layered()
    return [
        (student[:, b, i].numpy(), teacher[:, b, i].numpy()) for b, length in enumerate(LENGTHS) for i in range(length)
    ]


def test_layer_pairs_are_compared_at_each_token() -> None:
    loss = layer_pair_loss(*layered(), MASK)
    expected = sum(pair_divergence(student, teacher) for student, teacher in layers_of_tokens())
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == L * sum(LENGTHS)


def test_layer_angles_are_compared_at_each_token() -> None:
    loss = layer_angle_loss(*layered(), MASK)
    triplets = list(permutations(range(L), 3))
    expected = sum(triplet_error(student, teacher, triplets, squared) for student, teacher in layers_of_tokens())
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == L * (L - 1) * (L - 2) * sum(LENGTHS)


@pytest.mark.parametrize("num_heads", [1, 4])
def test_token_pairs_are_compared_by_their_scaled_products(num_heads: int) -> None:
    loss = token_pair_loss(*states(), MASK, num_heads=num_heads)
    expected = 0.0
    for student, teacher in sequences():
        for i in range(len(student)):
            for j in range(len(student)):
                products = [
                    [
                        a @ b / math.sqrt(len(a))
                        for a, b in zip(np.split(side[i], num_heads), np.split(side[j], num_heads), strict=True)
                    ]
                    for side in (student, teacher)
                ]
                expected += float(np.square(np.subtract(*products)).sum())
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == num_heads * sum(length**2 for length in LENGTHS)


def salient_triplets(
    teacher: Vectors, num_heads: int, num_anchors: int, num_neighbours: int
) -> list[tuple[int, int, int]]:
    attended = np.zeros((len(teacher), len(teacher)))
    for head in range(num_heads):
        parts = [np.split(vector, num_heads)[head] for vector in teacher]
        for i, query in enumerate(parts):
            scores = [query @ key / math.sqrt(len(query)) for key in parts]
            attended[i] += softmax(np.array(scores))
    triplets = []
    for anchor in np.argsort(-attended.sum(0))[:num_anchors]:
        ranked = [int(i) for i in np.argsort(-attended[anchor]) if i != anchor]
        triplets += [(int(anchor), j, k) for j, k in permutations(ranked[:num_neighbours], 2)]
    return triplets


@pytest.mark.parametrize(("num_anchors", "num_neighbours"), [(1, 2), (2, 3), (20, 20)])
def test_token_angles_are_compared_where_the_teacher_attends(num_anchors: int, num_neighbours: int) -> None:
    loss = token_angle_loss(*states(), MASK, num_heads=4, num_anchors=num_anchors, num_neighbours=num_neighbours)
    expected, count = 0.0, 0
    for student, teacher in sequences():
        triplets = salient_triplets(teacher, 4, num_anchors, num_neighbours)
        expected += triplet_error(student, teacher, triplets, smooth_l1)
        count += len(triplets)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == count


def test_an_unattended_token_ranks_above_padding() -> None:
    student, teacher = drawn(1, 3, H, seed=1), drawn(1, 3, T, seed=2).sign() * 1e4
    teacher[0, 1] = teacher[0, 0] / 2  # less similar to itself than to its neighbour
    on_the_left = [torch.cat([torch.zeros_like(side), side], 1) for side in (student, teacher)]
    options = {"num_heads": 1, "num_anchors": 3, "num_neighbours": 2}
    loss = token_angle_loss(student, teacher, torch.ones(1, 3), **options)
    real = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert int(loss.count) == 6
    assert torch.equal(token_angle_loss(*on_the_left, real, **options).total, loss.total)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_sample_angles_are_compared_between_the_means_of_sequences(num_heads: int) -> None:
    loss = sample_angle_loss(*states(), MASK, num_heads=num_heads)
    triplets = list(permutations(range(B), 3))
    expected = 0.0
    for head in range(num_heads):
        student, teacher = (
            [np.split(np.mean(row[side], axis=0), num_heads)[head] for row in sequences()] for side in (0, 1)
        )
        expected += triplet_error(student, teacher, triplets, smooth_l1)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == num_heads * len(triplets)


def test_rows_without_real_tokens_are_left_out_of_sample_angles() -> None:
    student, teacher = states()
    without = torch.cat([MASK, torch.zeros(1, S, dtype=torch.bool)])
    more = [torch.cat([side, torch.full_like(side[:1], math.nan)]) for side in (student, teacher)]
    loss = sample_angle_loss(student, teacher, MASK, num_heads=2)
    same = sample_angle_loss(*more, without, num_heads=2)
    assert torch.equal(loss.total, same.total)
    assert torch.equal(loss.count, same.count)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_fewer_than_three_rows_have_no_angles(num_rows: int) -> None:
    student, teacher = states()
    student.requires_grad_()
    loss = sample_angle_loss(student[:num_rows], teacher[:num_rows], MASK[:num_rows], num_heads=2)
    loss.total.backward()
    assert (loss.total.item(), int(loss.count), loss.mean().item()) == (0.0, 0, 0.0)
    assert not student.grad.any()


def test_relations_are_invariant_to_rotation_of_the_states() -> None:
    student, teacher = states()
    turned = student @ torch.linalg.qr(drawn(H, H, seed=3))[0]
    angles = {"num_heads": 1, "num_anchors": 3, "num_neighbours": 3}
    for function, options in (
        (word_pair_loss, {}),
        (word_angle_loss, {"window": 5}),
        (token_pair_loss, {"num_heads": 1}),
        (token_angle_loss, angles),
        (sample_angle_loss, {"num_heads": 1}),
    ):
        plain = function(student, teacher, MASK, **options).total.item()
        assert function(turned, teacher, MASK, **options).total.item() == pytest.approx(plain)


def test_two_equal_tokens_give_a_finite_gradient() -> None:
    student = torch.ones(1, 4, H, requires_grad=True)
    teacher, all_real = drawn(1, 4, T, seed=2).float(), torch.ones(1, 4)
    loss = word_angle_loss(student, teacher, all_real, window=7)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(
        sum(angle(teacher[0].numpy(), *triplet) ** 2 for triplet in permutations(range(4), 3)), rel=1e-5
    )
    assert not student.grad.any()
