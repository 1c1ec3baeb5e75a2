"""What every loss shares: a sum with its count, full precision, and padding kept out of the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["valid", "published"]

# A vector shorter than this has no direction. Its inverse, and the inverse's square, are still numbers of float32.
_SHORTEST = 1e-12


@dataclass(frozen=True)
class Summed:
    """A loss before its division."""

    total: Tensor
    """Scalar: the sum over everything that counts."""
    count: Tensor
    """Scalar: how much counts."""

    def mean(self) -> Tensor:
        """The sum over the count; 0 where nothing counts."""
        return self.total / self.count.clamp(min=1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in the number format of its inputs: under autocast, bf16 would lose what a loss compares."""
    with torch.autocast(left.device.type, enabled=False):
        return torch.matmul(left, right)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors of the last dimension over their lengths; 0, without gradient, where there is no direction."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    no_direction = length < _SHORTEST
    return (vectors / length.masked_fill(no_direction, 1.0)).masked_fill(no_direction, 0.0)


def log_softmax_over(scores: Tensor, valid: Tensor) -> Tensor:
    """Logarithms of the softmax over the last dimension's valid entries; 0, without gradient, at the others.

    Args:
        scores: any shape.
        valid: True where a score takes part; broadcast to the shape of `scores`.
    """
    # The lowest number rather than -inf: a row without any valid entry has to stay free of NaN.
    lowest = torch.finfo(scores.dtype).min
    return F.log_softmax(scores.masked_fill(~valid, lowest), dim=-1).masked_fill(~valid, 0.0)


def divergence_over(student_scores: Tensor, teacher_scores: Tensor, valid: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the softmaxes over the last dimension's valid entries; that dimension is summed away."""
    student = log_softmax_over(student_scores, valid)
    teacher = log_softmax_over(teacher_scores, valid)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
