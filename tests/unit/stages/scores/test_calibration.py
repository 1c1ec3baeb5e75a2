"""Calibration against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.scores.calibration import calibration


def logits_of(probability: float) -> list[float]:
    return [float(np.log(probability)), float(np.log(1 - probability))]


def test_groups_and_error_equal_counts_by_hand() -> None:
    logits = np.array([logits_of(p) for p in (0.95, 0.92, 0.98, 0.65, 0.61)], np.float32)
    found = calibration(logits, np.array([0, 0, 1, 0, 1]))
    np.testing.assert_allclose(found.confidence, [0.63, 0.95], atol=1e-6)
    np.testing.assert_allclose(found.accuracy, [1 / 2, 2 / 3])
    assert found.rows.tolist() == [2, 3]
    assert found.error == pytest.approx(0.4 * 0.13 + 0.6 * (0.95 - 2 / 3))


def test_a_model_that_is_always_sure_and_right_has_no_error() -> None:
    found = calibration(np.array([[50.0, 0], [0, 50.0]], np.float32), np.array([0, 1]))
    assert found.error == pytest.approx(0)
    assert found.rows.tolist() == [2]


def test_large_outputs_do_not_overflow() -> None:
    assert np.isfinite(calibration(np.array([[1e4, -1e4, 0]], np.float32), np.array([0])).error)
