"""Distances of hidden and pooled states against float64 loops over tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.losses import hidden_state_loss, pool_states
from tests.unit.stages.losses.arrays import LENGTHS, B, H, S, drawn

MASK = torch.arange(S)[None, :] < torch.tensor(LENGTHS)[:, None]

Vector = np.ndarray


def smooth_l1(a: Vector, b: Vector) -> float:
    total = 0.0
    for difference in np.abs(a - b):
        total += 0.5 * difference**2 if difference < 1 else difference - 0.5
    return total / len(a)


def unit(a: Vector) -> Vector:
    return a / np.sqrt((a * a).sum())


DISTANCES: dict[str, Callable[[Vector, Vector], float]] = {
    "mse": lambda a, b: float(np.square(a - b).mean()),
    "cosine": lambda a, b: 1 - float(unit(a) @ unit(b)),
    "smooth_l1": smooth_l1,
    "normalized_mse": lambda a, b: float(np.square(unit(a) - unit(b)).sum()),
}


@pytest.mark.parametrize("kind", sorted(DISTANCES))
@pytest.mark.parametrize("weights", [None, (0.5, 0.0, 3.0)])
def test_state_losses_sum_the_distances_of_unpadded_tokens(kind: str, weights: tuple[float, ...] | None) -> None:
    student, teacher = drawn(B, S, H, seed=1), drawn(B, S, H, seed=2)
    row_weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = hidden_state_loss(student, teacher, MASK, kind=kind, row_weights_B=row_weights)
    total = 0.0
    for b, length in enumerate(LENGTHS):
        for i in range(length):
            distance = DISTANCES[kind](student[b, i].numpy(), teacher[b, i].numpy())
            total += distance * (1.0 if weights is None else weights[b])
    assert loss.total.item() == pytest.approx(total, rel=1e-12)
    assert int(loss.count) == sum(LENGTHS)


@pytest.mark.parametrize("kind", ["cosine", "normalized_mse"])
@given(exponent=st.integers(-9, 15))
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
def test_direction_losses_are_invariant_to_the_norm_of_a_vector(kind: str, exponent: int) -> None:
    student, teacher, all_real = drawn(B, S, H, seed=1), drawn(B, S, H, seed=2), torch.ones(B, S)
    plain = hidden_state_loss(student, teacher, all_real, kind=kind).total.item()
    scaled = hidden_state_loss(student * 10.0**exponent, teacher, all_real, kind=kind).total.item()
    assert scaled == pytest.approx(plain, rel=1e-12)


def test_normalized_mse_is_twice_the_cosine_distance() -> None:
    student, teacher = drawn(B, S, H, seed=1), drawn(B, S, H, seed=2)
    normalized = hidden_state_loss(student, teacher, MASK, kind="normalized_mse").total.item()
    cosine = hidden_state_loss(student, teacher, MASK, kind="cosine").total.item()
    assert normalized == pytest.approx(2 * cosine, rel=1e-12)


def test_the_cosine_of_a_zero_vector_is_zero() -> None:
    student, one_token = torch.zeros(1, 1, H, requires_grad=True), torch.ones(1, 1)
    for kind in ("cosine", "normalized_mse"):
        loss = hidden_state_loss(student, drawn(1, 1, H).float(), one_token, kind=kind)
        assert loss.total.item() == pytest.approx(1.0)
        assert not torch.autograd.grad(loss.total, student)[0].any()


def test_pooling_by_tokens_returns_the_states_unchanged() -> None:
    states = drawn(B, S, H)
    pooled, pooled_mask = pool_states(states, MASK, pooling="tokens")
    assert pooled is states
    assert pooled_mask is MASK


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_pooling_ignores_padding(pooling: str) -> None:
    states = drawn(B, S, H)
    poisoned = states.masked_fill(~MASK[:, :, None], float("nan"))
    pooled, pooled_mask = pool_states(poisoned, MASK, pooling=pooling)
    assert pooled.shape == (B, 1, H)
    assert pooled_mask.tolist() == [[True]] * B
    for b, length in enumerate(LENGTHS):
        real = states[b, : 1 if pooling == "first" else length].numpy()
        assert pooled[b, 0].tolist() == pytest.approx(real.mean(0).tolist(), rel=1e-12)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_pooling_ignores_padding_on_the_left(pooling: str) -> None:
    states, real = drawn(1, 3, H), torch.tensor([[0, 1, 1]])
    pooled, _ = pool_states(states, real, pooling=pooling)
    alone, _ = pool_states(states[:, 1:], real[:, 1:], pooling=pooling)
    assert torch.equal(pooled, alone)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_pooled_row_without_tokens_is_masked(pooling: str) -> None:
    states, real = drawn(2, 3, H).fill_(float("nan")), torch.tensor([[1, 1, 0], [0, 0, 0]])
    states[0] = 1.0
    pooled, pooled_mask = pool_states(states, real, pooling=pooling)
    assert pooled_mask.tolist() == [[True], [False]]
    loss = hidden_state_loss(pooled, torch.zeros_like(pooled), pooled_mask)
    assert (loss.total.item(), int(loss.count)) == (1.0, 1)
