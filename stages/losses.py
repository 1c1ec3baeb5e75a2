"""The losses, as pure functions that return a sum and a count.

The loop divides each term once, by its count over the whole optimizer step, so padding, accumulation and the number of
processes cannot change a gradient. Everything is computed in float32 (float64 where it is given), and padding is
removed before the arithmetic: a NaN in a padded place reaches neither the loss nor a gradient.

`reduction="published"` computes what the published TinyBERT code computes (huawei-noah, task_distill.py), whose scale
depends on padding and on the number of classes. It is there to compare numbers, not to train with.

Shapes: B batch, S sequence, H hidden width, A attention heads, D head width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["valid", "published"]

# The published code overwrites masked scores, recognised by being at most this, with zero.
_PUBLISHED_MASKED = -1e2


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


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def attention_scores(
    query_BASD: Tensor, key_BASD: Tensor, mask_BS: Tensor, *, scaling: float
) -> Tensor:
    """Scaled dot products before mask and softmax, (B, A, S, S); 0 wherever query or key is padding.

    Args:
        query_BASD: queries, after whatever position encoding the model applies to them.
        key_BASD: keys, one per query head.
        mask_BS: True for real tokens.
        scaling: the model's factor, usually 1/sqrt(D).
    """
    padding = ~mask_BS.bool()[:, None, :, None]
    query = _at_least_float32(query_BASD).masked_fill(padding, 0.0)
    key = _at_least_float32(key_BASD).masked_fill(padding, 0.0)
    with torch.autocast(
        query.device.type, enabled=False
    ):  # bf16 scores would lose what the loss compares
        return torch.matmul(query * scaling, key.transpose(-1, -2))


def attention_score_loss(
    student_BASS: Tensor, teacher_BASS: Tensor, mask_BS: Tensor, *, reduction: Reduction = "valid"
) -> Summed:
    """Squared error of attention scores over heads and pairs of real tokens (TinyBERT, eq. 7).

    Raw scores rather than probabilities, as the paper found better. Departs from the published code in leaving padded
    queries and keys out of both sum and count.

    Args:
        student_BASS: the student's scores.
        teacher_BASS: the teacher's scores, without gradient; as many heads as the student's.
        mask_BS: True for real tokens; not read by `published`.
        reduction: `published` zeroes scores of at most -100 on both sides and counts every position.
    """
    student, teacher = _at_least_float32(student_BASS), _at_least_float32(teacher_BASS)
    if reduction == "published":
        student = torch.where(student <= _PUBLISHED_MASKED, 0.0, student)
        teacher = torch.where(teacher <= _PUBLISHED_MASKED, 0.0, teacher)
        return Summed((student - teacher).square().sum(), torch.tensor(student.numel()))
    mask = mask_BS.bool()
    invalid_B1SS = ~(mask[:, :, None] & mask[:, None, :])[:, None]
    error = student.masked_fill(invalid_B1SS, 0.0) - teacher.masked_fill(invalid_B1SS, 0.0)
    length_B = mask.sum(-1)
    return Summed(error.square().sum(), length_B.square().sum() * student.shape[1])


def hidden_state_loss(
    student_BSH: Tensor, teacher_BSH: Tensor, mask_BS: Tensor, *, reduction: Reduction = "valid"
) -> Summed:
    """Squared error of hidden states, averaged over H, summed over real tokens (TinyBERT, eq. 8 and 9).

    Args:
        student_BSH: the student's states, already projected to the teacher's width.
        teacher_BSH: the teacher's states, without gradient.
        mask_BS: True for real tokens.
        reduction: `published` counts padding like any token.
    """
    mask = (
        torch.ones_like(mask_BS, dtype=torch.bool) if reduction == "published" else mask_BS.bool()
    )
    error_NH = _at_least_float32(student_BSH[mask]) - _at_least_float32(teacher_BSH[mask])
    return Summed(error_NH.square().mean(-1).sum(), mask.sum())


def soft_label_loss(
    student_BC: Tensor, teacher_BC: Tensor, *, temperature: float, reduction: Reduction = "valid"
) -> Summed:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), summed over rows (Hinton et al. 2015, section 2).

    Args:
        student_BC: the student's logits.
        teacher_BC: the teacher's logits, without gradient.
        temperature: T; the factor T² keeps the gradient's size as T grows.
        reduction: `published` is the cross entropy instead of the divergence (same gradient), averaged over the
            classes too, without T²: C times smaller at T = 1.
    """
    student, teacher = _at_least_float32(student_BC), _at_least_float32(teacher_BC)
    log_student = F.log_softmax(student / temperature, dim=-1)
    rows = torch.tensor(student.shape[0])
    if reduction == "published":
        target = F.softmax(teacher / temperature, dim=-1)
        return Summed(-(target * log_student).sum() / student.shape[-1], rows)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return Summed(divergence * temperature**2, rows)


def hard_label_loss(student_BC: Tensor, labels_B: Tensor) -> Summed:
    """Cross entropy against the data's labels, summed over rows.

    Args:
        student_BC: the student's logits.
        labels_B: class indices.
    """
    total = F.cross_entropy(_at_least_float32(student_BC), labels_B, reduction="sum")
    return Summed(total, torch.tensor(labels_B.shape[0]))
