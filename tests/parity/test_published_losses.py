"""TinyBERT's published code (huawei-noah at 0598f02): value and gradient of every case of the fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.published import (
    check_value_and_gradient,
    published_score_loss,
    published_soft_label_loss,
    published_state_loss,
)


def attention(student: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Three student blocks against teacher blocks 1, 3 and 5 (uniform over six), summed over layers."""
    return torch.stack([published_score_loss(student[i], inputs["t_att"][2 * i + 1]).mean() for i in range(3)]).sum()


def states(student: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Embedding and three blocks against teacher states 0, 2, 4 and 6, with one shared projection."""
    return torch.stack(
        [
            published_state_loss(
                F.linear(student[i], inputs["fit_weight"], inputs["fit_bias"]), inputs["t_rep"][2 * i]
            ).mean()
            for i in range(4)
        ]
    ).sum()


def soft(temperature: float) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    return lambda student, inputs: published_soft_label_loss(
        student, inputs["logits_t"], temperature=temperature
    ).mean()


COMPUTE: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "task_attention": attention,
    "general_attention": attention,
    "task_hidden_and_embedding": states,
    "general_hidden_and_embedding": states,
    "soft_label_T1": soft(1.0),
    "soft_label_T2": soft(2.0),
}


@pytest.mark.parametrize("name", sorted(COMPUTE))
def test_value_and_gradient_equal_the_published_ones(name: str, shared: Path) -> None:
    cases = json.loads((shared / "fixtures" / "tinybert_losses.json").read_text(encoding="utf-8"))
    case = next(case for case in cases["losses"] if case["name"] == name)
    arrays = np.load(shared / "fixtures" / "tinybert_losses.npz", allow_pickle=False)
    inputs = {
        key: torch.from_numpy(arrays[key]).double() if arrays[key].dtype.kind == "f" else torch.from_numpy(arrays[key])
        for key in arrays.files
    }
    student = inputs[case["student"]].requires_grad_()
    value = COMPUTE[name](student, inputs)
    check_value_and_gradient(value, student, case)


def test_every_published_case_is_compared(shared: Path) -> None:
    cases = json.loads((shared / "fixtures" / "tinybert_losses.json").read_text(encoding="utf-8"))
    assert sorted(case["name"] for case in cases["losses"]) == sorted(COMPUTE)
