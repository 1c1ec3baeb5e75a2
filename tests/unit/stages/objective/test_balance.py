"""Factors of gradient balance against their formula, measurement by measurement."""

from __future__ import annotations

import math

import pytest
import torch

from stages.objective.balance import GradientBalance

WEIGHTS = {"attention": 1.0, "hidden": 2.0, "embedding": 0.5}


def norms(attention: float, hidden: float, embedding: float) -> dict[str, float]:
    return {"attention": attention, "hidden": hidden, "embedding": embedding}


def test_factors_follow_the_formula_over_several_measurements() -> None:
    balance = GradientBalance(WEIGHTS)
    assert balance.factors() == dict.fromkeys(WEIGHTS, 1.0)
    measured = [norms(9.0, 0.8, 0.2), norms(4.0, 0.5, 0.5), norms(0.03, 0.05, 0.02)]
    for number, step in enumerate((0, 1, 2), start=1):
        balance.note(step, measured[step])
        # An exponential mean that starts at 0, divided by the sum of its coefficients.
        parts = [0.2 * 0.8 ** (number - 1 - earlier) for earlier in range(number)]
        shares = {
            name: math.fsum(part * row[name] / sum(row.values()) for part, row in zip(parts, measured, strict=False))
            / math.fsum(parts)
            for name in WEIGHTS
        }
        equal = sum(WEIGHTS[name] * shares[name] for name in WEIGHTS) / 3.5
        assert balance.factors() == pytest.approx({name: equal / share for name, share in shares.items()}, rel=1e-12)


def test_shares_are_proportional_to_weights_and_the_sum_of_norms_stays() -> None:
    balance, measured = GradientBalance(WEIGHTS), norms(940.0, 58.0, 2.0)
    balance.note(0, measured)
    factors = balance.factors()
    after = {name: WEIGHTS[name] * factors[name] * measured[name] for name in WEIGHTS}
    before = sum(WEIGHTS[name] * measured[name] for name in WEIGHTS)
    assert after == pytest.approx({name: weight / 3.5 * before for name, weight in WEIGHTS.items()}, rel=1e-12)


def test_factors_are_invariant_to_the_scale_of_all_norms() -> None:
    plain, larger = GradientBalance(WEIGHTS), GradientBalance(WEIGHTS)
    for step, factor in enumerate((1.0, 1e6, 1e-6)):
        measured = norms(3.0 + step, 1.0, 0.5)
        plain.note(step, measured)
        larger.note(step, {name: factor * norm for name, norm in measured.items()})
    assert larger.factors() == pytest.approx(plain.factors(), rel=1e-12)


def test_a_term_without_a_gradient_has_a_bounded_factor() -> None:
    balance = GradientBalance(WEIGHTS)
    balance.note(0, norms(1.0, 0.0, 0.0))
    factors = balance.factors()
    assert all(0 < factor <= 10_000 for factor in factors.values())
    assert factors["hidden"] == factors["embedding"] == pytest.approx(10_000 * factors["attention"])
    # Once it has one, the next measurement is within a factor of 2 of what is measured.
    balance.note(1, norms(0.5, 0.25, 0.25))
    assert 2 < balance.factors()["hidden"] / balance.factors()["attention"] < 8


@pytest.mark.parametrize("bad", [norms(0.0, 0.0, 0.0), norms(math.nan, 1.0, 1.0), norms(1.0, math.inf, 1.0)])
def test_a_measurement_without_shares_is_ignored(bad: dict[str, float]) -> None:
    balance = GradientBalance(WEIGHTS)
    balance.note(0, bad)
    assert balance.factors() == dict.fromkeys(WEIGHTS, 1.0)
    balance.note(1, norms(3.0, 2.0, 1.0))
    before = balance.factors()
    balance.note(2, bad)
    assert balance.factors() == before


def test_measurements_become_rare_and_are_not_repeated() -> None:
    balance = GradientBalance(WEIGHTS)
    measured = []
    for step in range(257):
        for _attempt in range(2):  # a step is tried again when memory runs out
            if balance.is_due(step):
                measured.append(step)
                balance.note(step, norms(1.0, 1.0, 1.0))
    assert measured == [0, 1, 2, 4, 8, 16, 32, 64, 128, 192, 256]
    assert not GradientBalance({"attention": 1.0}).is_due(0), "one term has no other to be balanced with"


def test_a_restored_balance_continues_bit_for_bit() -> None:
    whole = GradientBalance(WEIGHTS)
    whole.note(0, norms(0.3, 0.1, 0.7))
    whole.note(1, norms(0.2, 0.1, 0.9))
    resumed = GradientBalance(WEIGHTS)
    resumed.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    assert all(isinstance(value, torch.Tensor) for value in whole.state_dict().values())
    assert resumed.factors() == whole.factors()
    assert not resumed.is_due(1)
    for balance in (whole, resumed):
        balance.note(2, norms(0.6, 0.2, 0.1))
    assert resumed.factors() == whole.factors()
