"""Losses that compare relations: how similar a layer's queries, keys or values are to each other.

Shapes: B batch, S sequence, A attention heads (then relation heads), D head width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, divergence_over, product

Across = Literal["tokens", "heads", "samples"]
RelationReduction = Literal["valid", "per_sequence", "with_padding"]


def relation_loss(
    student_BASD: Tensor,
    teacher_BASD: Tensor,
    mask_BS: Tensor,
    *,
    num_heads: int | None,
    across: Across = "tokens",
    reduction: RelationReduction = "valid",
) -> Summed:
    """KL(teacher ‖ student) of relations, softmax(X Xᵀ / sqrt(D)), counting relation heads times real tokens.

    X are the queries, keys or values of one layer. Across tokens this is MiniLMv2's self-attention relation (Wang et
    al. 2021), and MiniLM's value relation (Wang et al. 2020) where X are values and `num_heads` is None. Across heads
    and across samples are PP-MiniLM's (PaddleNLP, distill_utils.py, calc_multi_relation_loss): of each real token,
    every relation head's relation to the others, and of each position, every row's to the other rows that have a real
    token there. Padding takes part in none of them, unlike in PaddleNLP.

    Total and count add up over any split of the rows, except across samples, which relates the rows of a batch: there
    the batch that is handed in is part of the loss's definition.

    Args:
        student_BASD: the student's queries, keys or values.
        teacher_BASD: the teacher's, without gradient; A and D may differ from the student's.
        mask_BS: True for real tokens.
        num_heads: relation heads: heads are concatenated and split again into so many; None keeps the models' own.
        across: what is related to what.
        reduction: `per_sequence` averages within each sequence, then over sequences: count is the number of sequences
            with a real token (milistu/bertdistiller). `with_padding` counts padded tokens too, which are left out only
            as keys across tokens (PaddleNLP, whose loss is this total, divided by B for `batchmean`, or by S across
            samples).

    Raises:
        ValueError: the widths of student and teacher cannot both be split into so many relation heads.
    """
    num_heads = _relation_heads(student_BASD.shape, teacher_BASD.shape, num_heads)
    mask = mask_BS.bool()
    kept = torch.ones_like(mask) if reduction == "with_padding" else mask
    student = _related(_split_heads(student_BASD, num_heads), kept, across)
    teacher = _related(_split_heads(teacher_BASD, num_heads), kept, across)
    divergence = divergence_over(student, teacher, _valid_keys(mask, kept, across))
    if across == "tokens":
        divergence_BS = divergence.sum(1)
    elif across == "heads":
        divergence_BS = divergence.sum(2)
    else:
        divergence_BS = divergence.sum(1).T
    length_B = kept.sum(-1)
    if reduction == "per_sequence":
        mean_B = divergence_BS.sum(-1) / (num_heads * length_B.clamp(min=1))
        return Summed(mean_B.sum(), (length_B > 0).sum())
    return Summed(divergence_BS.sum(), length_B.sum() * num_heads)


def _relation_heads(student_shape: torch.Size, teacher_shape: torch.Size, num_heads: int | None) -> int:
    student_width = student_shape[1] * student_shape[3]
    teacher_width = teacher_shape[1] * teacher_shape[3]
    common = math.gcd(student_width, teacher_width)
    legal = [number for number in range(1, common + 1) if common % number == 0]
    if num_heads is None and student_shape[1] != teacher_shape[1]:
        given = f"{student_shape[1]} heads of the student and {teacher_shape[1]} of the teacher"
    elif num_heads is not None and num_heads not in legal:
        given = f"{num_heads} relation heads"
    else:
        return student_shape[1] if num_heads is None else num_heads
    raise ValueError(
        f"{given} do not split the student's width of {student_width} and the teacher's of {teacher_width} alike;"
        f" relation heads that do: {', '.join(map(str, legal))}"
    )


def _split_heads(tensor_BASD: Tensor, num_heads: int) -> Tensor:
    """Heads concatenated and split again, (B, S, num_heads, D), in full precision."""
    return at_least_float32(tensor_BASD).transpose(1, 2).flatten(2).unflatten(-1, (num_heads, -1))


def _related(vectors_BSAD: Tensor, kept_BS: Tensor, across: Across) -> Tensor:
    """Scaled dot products: (B, A, S, S) across tokens, (B, S, A, A) across heads, (S, A, B, B) across samples.

    A padded query has 0 to every key, on both sides, and so no divergence.
    """
    vectors = vectors_BSAD.masked_fill(~kept_BS[:, :, None, None], 0.0)
    if across == "tokens":
        vectors = vectors.transpose(1, 2)
    elif across == "samples":
        vectors = vectors.permute(1, 2, 0, 3)
    return product(vectors / math.sqrt(vectors.shape[-1]), vectors.transpose(-1, -2))


def _valid_keys(mask_BS: Tensor, kept_BS: Tensor, across: Across) -> Tensor:
    if across == "tokens":
        return mask_BS[:, None, None, :]
    if across == "heads":
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=mask_BS.device)
    return kept_BS.T[:, None, None, :]
