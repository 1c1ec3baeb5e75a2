"""Ridge regression from sums compared with numpy on complete matrices and the explicit hat matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.models.starts.least_squares import PENALTIES, LeastSquares


def fitted(
    inputs: Tensor, outputs: Tensor, *, rows_at_once: int = 1000, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    fit = LeastSquares(has_intercept=intercept)
    for start in range(0, len(inputs), rows_at_once):
        fit.add(inputs[start : start + rows_at_once], outputs[start : start + rows_at_once])
    return fit.solved()


def drawn(number: int, width: int, *, seed: int, mean: float = 3.0) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def by_hand(x: NDArray[np.float64], y: NDArray[np.float64], *, intercept: bool) -> tuple[float, NDArray[np.float64]]:
    """The penalty of the least generalised cross-validation, as a multiple of the mean eigenvalue, and W."""
    number, width = x.shape
    if intercept:
        x, y = x - x.mean(0), y - y.mean(0)
    scale = np.trace(x.T @ x) / width
    tried = []
    for multiple in PENALTIES:
        inverse = np.linalg.inv(x.T @ x + multiple * scale * np.eye(width))
        hat = x @ inverse @ x.T
        residual = ((y - hat @ y) ** 2).sum()
        freedom = number - np.trace(hat) - intercept
        tried.append((number * residual / freedom**2 if freedom > 0 else np.inf, multiple, (inverse @ x.T @ y).T))
    _, multiple, weight = min(tried, key=lambda trial: trial[0])
    return multiple, weight


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_map_and_penalty_equal_those_computed_by_hand(intercept: bool, noise: float) -> None:
    inputs, true = drawn(60, 5, seed=0), drawn(7, 5, seed=1)
    outputs = inputs @ true.T + noise * drawn(60, 7, seed=2, mean=0.0)
    weight, bias = fitted(inputs, outputs, rows_at_once=13, intercept=intercept)
    multiple, expected = by_hand(inputs.numpy(), outputs.numpy(), intercept=intercept)
    assert (multiple == PENALTIES[0]) == (noise == 0.0)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-7, atol=1e-10)
    mean = outputs.numpy().mean(0) - expected @ inputs.numpy().mean(0) if intercept else np.zeros(7)
    np.testing.assert_allclose(bias.numpy(), mean, rtol=1e-6, atol=1e-7)


def test_an_affine_relation_is_recovered_from_float32() -> None:
    inputs, true, shift = drawn(300, 6, seed=2), drawn(4, 6, seed=3), drawn(1, 4, seed=4)
    weight, bias = fitted(inputs.float(), (inputs @ true.T + shift).float())
    torch.testing.assert_close(weight, true, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias, shift[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [3, 50])
def test_dependent_inputs_and_few_rows_have_a_finite_map(number: int) -> None:
    inputs = drawn(number, 8, seed=7)
    inputs = inputs - inputs.mean(1, keepdim=True)  # as after a layer norm: one direction is missing
    weight, bias = fitted(inputs, outputs := drawn(number, 3, seed=8))
    _, expected = by_hand(inputs.numpy(), outputs.numpy(), intercept=True)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert bool(torch.isfinite(bias).all())


def test_constant_inputs_are_mapped_to_the_mean() -> None:
    weight, bias = fitted(torch.zeros(5, 3), outputs := drawn(5, 2, seed=9))
    assert not bool(weight.any())
    torch.testing.assert_close(bias, outputs.mean(0))
