"""Losses with the scales of published code, built on the product's losses, and their comparison with fixtures.

Published scales depend on padding or on the number of classes: these functions compare numbers and train nothing.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses import (
    Summed,
    attention_probability_loss,
    attention_score_loss,
    hidden_state_loss,
    relation_loss,
    soft_label_loss,
)
from stages.losses.base import divergence_over

RELATIVE = 1e-6

# The published code recognises masked scores by this bound and overwrites them with zero.
_MASKED_SCORE = -1e2


def _masked_as_zero(scores_BASS: Tensor) -> Tensor:
    return torch.where(scores_BASS <= _MASKED_SCORE, 0.0, scores_BASS)


def _all_real(states: Tensor, *, sequence: int) -> Tensor:
    return torch.ones(len(states), states.shape[sequence], dtype=torch.bool)


def published_score_loss(student_BASS: Tensor, teacher_BASS: Tensor) -> Summed:
    """TinyBERT and NVIDIA: squared error over all positions, with masked scores set to 0."""
    every = _all_real(student_BASS, sequence=2)
    return attention_score_loss(_masked_as_zero(student_BASS), _masked_as_zero(teacher_BASS), every)


def published_probability_loss(
    student_BASS: Tensor, teacher_BASS: Tensor, *, kind: Literal["kl", "mse", "cosine"]
) -> Summed:
    """NVIDIA: masked scores are set to 0, take part in the softmax, and every position counts."""
    every = _all_real(student_BASS, sequence=2)
    return attention_probability_loss(_masked_as_zero(student_BASS), _masked_as_zero(teacher_BASS), every, kind=kind)


def published_state_loss(student_BSH: Tensor, teacher_BSH: Tensor, *, kind: Literal["mse", "cosine"] = "mse") -> Summed:
    """TinyBERT and NVIDIA: padding counts like any token."""
    return hidden_state_loss(student_BSH, teacher_BSH, _all_real(student_BSH, sequence=1), kind=kind)


def published_soft_label_loss(student_BC: Tensor, teacher_BC: Tensor, *, temperature: float) -> Summed:
    """TinyBERT: cross entropy instead of the divergence, also averaged over classes, without T²."""
    divergence = soft_label_loss(student_BC, teacher_BC, temperature=temperature)
    log_teacher_BC = F.log_softmax(teacher_BC / temperature, dim=-1)
    entropy = -(log_teacher_BC.exp() * log_teacher_BC).sum()
    return Summed((divergence.total / temperature**2 + entropy) / student_BC.shape[-1], divergence.count)


def paddle_relation_sum(
    student_BASD: Tensor,
    teacher_BASD: Tensor,
    mask_BS: Tensor,
    *,
    num_heads: int,
    across: Literal["tokens", "heads", "samples"],
) -> Tensor:
    """PaddleNLP: padding counts, and is excluded only as keys across tokens."""
    if across != "tokens":
        every = _all_real(student_BASD, sequence=2)
        return relation_loss(student_BASD, teacher_BASD, every, num_heads=num_heads, across=across).total

    def relations(states_BASD: Tensor) -> Tensor:
        vectors = states_BASD.transpose(1, 2).flatten(2).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        return vectors @ vectors.transpose(-1, -2) / math.sqrt(vectors.shape[-1])

    keys = mask_BS.bool()[:, None, None, :]
    return divergence_over(relations(student_BASD), relations(teacher_BASD), keys).sum()


def bertdistiller_relation_mean(
    student_BASD: Tensor, teacher_BASD: Tensor, mask_BS: Tensor, *, num_heads: int
) -> Tensor:
    """milistu/bertdistiller: the mean over each sequence, then over the sequences with a real token."""
    rows = [
        relation_loss(student_BASD[[row]], teacher_BASD[[row]], mask_BS[[row]], num_heads=num_heads).mean()
        for row in range(len(mask_BS))
        if mask_BS[row].any()
    ]
    return torch.stack(rows).mean()


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
