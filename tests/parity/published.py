"""What a published number is compared by: value and gradient, the same for every source."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

RELATIVE = 1e-6


def check_value_and_gradient(value: Tensor, student: Tensor, case: dict[str, Any]) -> None:
    """Compare a loss and its gradient in `student` with a fixture's case."""
    value.backward()
    gradient = student.grad
    assert gradient is not None
    assert value.item() == pytest.approx(case["value"], rel=RELATIVE)
    assert float(gradient.norm()) == pytest.approx(case["grad_l2"], rel=RELATIVE)
    assert float(gradient.sum()) == pytest.approx(case["grad_sum"], rel=RELATIVE, abs=1e-12)
    first = gradient.flatten()[: len(case["grad_first"])].tolist()
    assert first == pytest.approx(case["grad_first"], rel=RELATIVE, abs=1e-15)
