"""Shared parts of the losses: a sum with its count, full precision, softmaxes that leave padding out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A shorter vector has no direction. The inverse of this length, and its square, still fit into float32.
_SHORTEST = 1e-12


@dataclass(frozen=True)
class Summed:
    """A loss before its division."""

    total: Tensor
    """Scalar: the sum over all elements that count."""
    count: Tensor
    """Scalar: the number of elements that count."""

    def mean(self) -> Tensor:
        """Return the sum over the count; 0 if nothing counts."""
        return self.total / self.count.clamp(min=1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32; a float64 tensor is returned as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right` in the inputs' number format: bf16 under autocast would be too coarse for a loss."""
    with torch.autocast(left.device.type, enabled=False):
        return torch.matmul(left, right)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Normalise the vectors in the last dimension; 0 without gradient where a vector has no direction."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    no_direction = length < _SHORTEST
    return (vectors / length.masked_fill(no_direction, 1.0)).masked_fill(no_direction, 0.0)


def log_softmax_over(scores: Tensor, valid: Tensor) -> Tensor:
    """Return the log-softmax over the last dimension's valid entries; 0 without gradient at the others.

    Args:
        scores: any shape.
        valid: True where a score takes part; broadcast to the shape of `scores`.
    """
    # The lowest finite number rather than -inf: a row without a valid entry must not become NaN.
    lowest = torch.finfo(scores.dtype).min
    return F.log_softmax(scores.masked_fill(~valid, lowest), dim=-1).masked_fill(~valid, 0.0)


def divergence_over(student_scores: Tensor, teacher_scores: Tensor, valid: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) of the softmaxes over valid entries, summed over the last dimension."""
    student = log_softmax_over(student_scores, valid)
    teacher = log_softmax_over(teacher_scores, valid)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
