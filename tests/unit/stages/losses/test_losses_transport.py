"""Optimal transport between layers against a brute-force optimal assignment."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.losses import transport_plan
from tests.unit.stages.losses.arrays import drawn, softmax


def uniform(num_layers: int) -> torch.Tensor:
    return torch.full((num_layers,), 1 / num_layers, dtype=torch.float64)


@given(num_layers=st.integers(1, 5), seed=st.integers(0, 999), scale=st.sampled_from([1e-9, 1.0, 1e9]))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_with_equal_weights_the_plan_costs_as_much_as_the_optimal_assignment(
    num_layers: int, seed: int, scale: float
) -> None:
    # Birkhoff: the corners of the plans with uniform weights are the assignments.
    cost = drawn(num_layers, num_layers, seed=seed).abs() * scale
    plan = transport_plan(cost, uniform(num_layers), uniform(num_layers))
    best = min(
        sum(cost[i, j].item() for i, j in enumerate(order)) / num_layers for order in permutations(range(num_layers))
    )
    assert float((plan * cost).sum()) == pytest.approx(best, rel=1e-6)


@given(seed=st.integers(0, 999), num_students=st.integers(1, 6), num_teachers=st.integers(1, 12))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_a_plan_moves_all_mass_and_is_locally_optimal(seed: int, num_students: int, num_teachers: int) -> None:
    cost = drawn(num_students, num_teachers, seed=seed).square()
    students = drawn(num_students, seed=seed + 1).square() + 0.1
    teachers = drawn(num_teachers, seed=seed + 2).square() + 0.1
    plan = transport_plan(cost, students, teachers)
    assert bool((plan >= 0).all())
    assert plan.sum(1).tolist() == pytest.approx((students / students.sum()).tolist(), abs=1e-9)
    assert plan.sum(0).tolist() == pytest.approx((teachers / teachers.sum()).tolist(), abs=1e-9)
    # Swapping the mass of two students between two teachers never lowers the cost.
    for i, k in permutations(range(num_students), 2):
        for j, m in permutations(range(num_teachers), 2):
            if min(plan[i, j], plan[k, m]) > 1e-9:
                assert cost[i, j] + cost[k, m] <= cost[i, m] + cost[k, j] + 1e-6


def test_the_loss_is_differentiated_only_through_the_costs() -> None:
    cost = drawn(2, 3).abs().requires_grad_()
    plan = transport_plan(cost, uniform(2), uniform(3))
    assert not plan.requires_grad
    (plan * cost).sum().backward()
    assert torch.equal(cost.grad, plan)


def test_a_layer_with_zero_weight_is_ignored() -> None:
    plan = transport_plan(drawn(3, 2).abs(), torch.tensor([0.0, 1.0, 1.0]), uniform(2))
    assert plan[0].tolist() == [0.0, 0.0]
    assert plan[1:].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_plan_is_computed_in_float32_or_wider(dtype: torch.dtype) -> None:
    plan = transport_plan(drawn(2, 3).abs().to(dtype), uniform(2).to(dtype), uniform(3).to(dtype))
    assert plan.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert plan.sum().item() == pytest.approx(1.0, rel=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_a_plan_for_zero_costs_is_valid() -> None:
    plan = transport_plan(torch.zeros(2, 3), uniform(2), uniform(3))
    assert plan.sum(1).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_non_finite_cost_gives_a_non_finite_loss(broken: float) -> None:
    cost = torch.ones(2, 3)
    cost[1, 2] = broken
    plan = transport_plan(cost, uniform(2), uniform(3))
    assert plan.flatten().tolist() == pytest.approx([1 / 6] * 6)
    assert not torch.isfinite((plan * cost).sum())


def attended(unit_costs: list[float], temperature: float) -> list[float]:
    shares = [sum(unit_costs) / unit_cost / temperature for unit_cost in unit_costs]
    return softmax(np.array(shares)).tolist()
