"""Losses between hidden states.

Shapes: B batch, S sequence, H hidden width, N compared tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, unit_vectors

StateDistance = Literal["mse", "cosine", "smooth_l1", "normalized_mse"]
Pooling = Literal["tokens", "first", "mean"]


def hidden_state_loss(
    student_BSH: Tensor,
    teacher_BSH: Tensor,
    mask_BS: Tensor,
    *,
    kind: StateDistance = "mse",
    row_weights_B: Tensor | None = None,
) -> Summed:
    """Return the distance of hidden states, summed over real tokens.

    Args:
        student_BSH: the student's states, already projected to the teacher's width.
        teacher_BSH: the teacher's states, without gradient.
        mask_BS: True for real tokens.
        kind: `mse`, the squared error averaged over H (TinyBERT, eq. 8 and 9); `smooth_l1`, squared below 1 and linear
            above, averaged over H; `cosine`, 1 - cos (DistilBERT); `normalized_mse`, the squared distance of the two
            unit vectors, summed over H (PKD, eq. 7). A zero vector has cosine 0 to any vector.
        row_weights_B: weights of the rows in the sum; the count ignores them.
    """
    mask = mask_BS.bool()
    # By index rather than by mask: its backward adds whole vectors instead of single numbers.
    index_N = mask.flatten().nonzero().squeeze(1)
    student_NH, teacher_NH = (
        at_least_float32(states.flatten(0, 1).index_select(0, index_N)) for states in (student_BSH, teacher_BSH)
    )
    if kind == "mse" and row_weights_B is None:
        total = F.mse_loss(student_NH, teacher_NH, reduction="sum") / student_NH.shape[-1]
        return Summed(total, mask.sum())
    distance_N = _distance(student_NH, teacher_NH, kind)
    if row_weights_B is not None:
        distance_N = distance_N * row_weights_B[:, None].expand(mask.shape).flatten()[index_N]
    return Summed(distance_N.sum(), mask.sum())


def _distance(student_NH: Tensor, teacher_NH: Tensor, kind: StateDistance) -> Tensor:
    if kind == "mse":
        return (student_NH - teacher_NH).square().mean(-1)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student_NH, teacher_NH, reduction="none").mean(-1)
    student_NH, teacher_NH = unit_vectors(student_NH), unit_vectors(teacher_NH)
    if kind == "cosine":
        return 1 - (student_NH * teacher_NH).sum(-1)
    return (student_NH - teacher_NH).square().sum(-1)


def pool_states(states_BSH: Tensor, mask_BS: Tensor, *, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """Pool hidden states for `hidden_state_loss`: keep all tokens, or one vector per row.

    Args:
        states_BSH: hidden states.
        mask_BS: True for real tokens.
        pooling: `tokens` changes nothing; `first` takes each row's first real token (PKD); `mean` averages its real
            tokens (RAIL-KD).

    Returns:
        States (B, S, H), or (B, 1, H) for `first` and `mean`, and their mask, which excludes rows without a real token.
    """
    if pooling == "tokens":
        return states_BSH, mask_BS
    mask = mask_BS.bool()
    pooled_mask_B1 = mask.any(-1, keepdim=True)
    if pooling == "first":
        first_B = mask.long().argmax(-1)
        return states_BSH[torch.arange(len(mask), device=mask.device), first_B][:, None], pooled_mask_B1
    states = at_least_float32(states_BSH).masked_fill(~mask[:, :, None], 0.0)
    length_B1 = mask.sum(-1, keepdim=True).clamp(min=1)
    return (states.sum(1) / length_B1)[:, None], pooled_mask_B1
