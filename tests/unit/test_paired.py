"""Means over seeds and rows are what a simulation by hand gives."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paired import difference


def test_rows_are_drawn_alike_for_both_methods() -> None:
    rows = np.random.default_rng(0).normal(0, 5, 2000)
    estimate = difference([71.0], [(71 + rows).tolist()], [70.0], [(70 + rows).tolist()])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((1.0, 1.0, 1.0))


def test_the_spread_of_seeds_widens_the_interval_as_a_bootstrap_by_hand_does() -> None:
    seeds, others = [70.0, 74.0, 72.0], [71.0, 71.0, 71.0]
    estimate = difference(seeds, [[seed] * 4000 for seed in seeds], others, [[other] * 4000 for other in others])
    means = [(first + second + third) / 3 - 71 for first in seeds for second in seeds for third in seeds]
    assert estimate.mean == pytest.approx(1.0)
    # Three times the lowest, or the highest, seed is drawn in 1 of 27 draws, which is more than 2.5 %.
    assert (estimate.low, estimate.high) == pytest.approx((min(means), max(means)))


def test_text_has_signs() -> None:
    assert str(difference([71.0], [[71.0]], [70.0], [[70.0]])) == "+1.0 (+1.0 to +1.0)"
