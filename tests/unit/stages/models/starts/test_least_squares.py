"""Affine maps by least squares against numpy's solver on whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.models.starts.least_squares import LeastSquares


def fitted(inputs: Tensor, outputs: Tensor, *, rows_at_once: int = 1000, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    fit = LeastSquares(inputs.shape[1], outputs.shape[1])
    for start in range(0, len(inputs), rows_at_once):
        fit.add(inputs[start : start + rows_at_once], outputs[start : start + rows_at_once])
    return fit.solve(ridge=ridge)


def rows(number: int, width: int, *, seed: int, mean: float = 3.0) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def test_the_map_is_numpy_s_with_a_column_of_ones() -> None:
    inputs, outputs = rows(200, 5, seed=0), rows(200, 7, seed=1)
    weight, bias = fitted(inputs, outputs, rows_at_once=33)
    expected = np.linalg.lstsq(np.column_stack([inputs.numpy(), np.ones(200)]), outputs.numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight.numpy(), expected[:5].T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bias.numpy(), expected[5], rtol=1e-9)


def test_an_affine_relation_is_recovered_from_float32() -> None:
    inputs, true, shift = rows(300, 6, seed=2), rows(4, 6, seed=3), rows(1, 4, seed=4)
    weight, bias = fitted(inputs.float(), (inputs @ true.T + shift).float())
    torch.testing.assert_close(weight, true, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias, shift[0], rtol=1e-4, atol=1e-4)


def test_ridge_shrinks_the_map_as_its_formula_says() -> None:
    inputs, outputs = rows(80, 4, seed=5), rows(80, 2, seed=6)
    weight, bias = fitted(inputs, outputs, ridge=0.5)
    centred, wanted = (matrix.numpy() - matrix.numpy().mean(0) for matrix in (inputs, outputs))
    penalty = 0.5 * centred.var(0).mean() * 80
    expected = np.linalg.solve(centred.T @ centred + penalty * np.eye(4), centred.T @ wanted).T
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bias.numpy(), outputs.numpy().mean(0) - expected @ inputs.numpy().mean(0), rtol=1e-9)


@pytest.mark.parametrize("number", [3, 50])
def test_dependent_inputs_and_few_rows_give_the_smallest_map(number: int) -> None:
    inputs = rows(number, 8, seed=7)
    inputs = inputs - inputs.mean(1, keepdim=True)  # as after a layer norm: one direction is missing
    outputs = rows(number, 3, seed=8)
    weight, bias = fitted(inputs, outputs)
    centred, wanted = (matrix.numpy() - matrix.numpy().mean(0) for matrix in (inputs, outputs))
    np.testing.assert_allclose(weight.numpy(), (np.linalg.pinv(centred) @ wanted).T, rtol=1e-6, atol=1e-8)
    assert bool(torch.isfinite(bias).all())
