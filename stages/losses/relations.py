"""Losses between relations: the similarities among the queries, keys or values of a layer.

Shapes: B batch, S sequence, A attention heads (then relation heads), D head width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, divergence_over, product

Across = Literal["tokens", "heads", "samples"]


def relation_loss(
    student_BASD: Tensor,
    teacher_BASD: Tensor,
    mask_BS: Tensor,
    *,
    num_heads: int | None,
    across: Across = "tokens",
) -> Summed:
    """Return KL(teacher ‖ student) of relations, softmax(X Xᵀ / sqrt(D)), counting relation heads times real tokens.

    X are the queries, keys or values of one layer. Across tokens this is MiniLMv2's self-attention relation (Wang et
    al. 2021), or MiniLM's value relation (Wang et al. 2020) for values with `num_heads` None. Relations across heads
    and across samples are PP-MiniLM's (PaddleNLP, distill_utils.py, calc_multi_relation_loss): among the relation heads
    of each real token, and among the rows that have a real token at a position. Padding takes part in none of them,
    unlike in PaddleNLP.

    Total and count add up over any split of the rows, except across samples: there the batch passed in is part of the
    loss's definition.

    Args:
        student_BASD: the student's queries, keys or values.
        teacher_BASD: the teacher's, without gradient; A and D may differ from the student's.
        mask_BS: True for real tokens.
        num_heads: relation heads: the heads are concatenated and split again into this number; None keeps the models'
            heads.
        across: the dimension whose members are related.

    Raises:
        ValueError: the widths of student and teacher cannot both be split into `num_heads`.
    """
    num_heads = _relation_heads(student_BASD.shape, teacher_BASD.shape, num_heads)
    mask = mask_BS.bool()
    student = _related(_split_heads(student_BASD, num_heads), mask, across)
    teacher = _related(_split_heads(teacher_BASD, num_heads), mask, across)
    divergence = divergence_over(student, teacher, _valid_keys(mask, across))
    heads = 2 if across == "heads" else 1
    return Summed(divergence.sum(heads).sum(), mask.sum() * num_heads)


def _relation_heads(student_shape: torch.Size, teacher_shape: torch.Size, num_heads: int | None) -> int:
    student_width = student_shape[1] * student_shape[3]
    teacher_width = teacher_shape[1] * teacher_shape[3]
    common = math.gcd(student_width, teacher_width)
    legal = [number for number in range(1, common + 1) if common % number == 0]
    if num_heads is None and student_shape[1] != teacher_shape[1]:
        subject = f"{student_shape[1]} heads of the student and {teacher_shape[1]} of the teacher"
    elif num_heads is not None and num_heads not in legal:
        subject = f"{num_heads} relation heads"
    else:
        return student_shape[1] if num_heads is None else num_heads
    raise ValueError(
        f"{subject} do not split the student's width of {student_width} and the teacher's of {teacher_width} alike;"
        f" numbers of relation heads that do: {', '.join(map(str, legal))}"
    )


def _split_heads(tensor_BASD: Tensor, num_heads: int) -> Tensor:
    """(B, S, num_heads, D): the heads concatenated and split again, in full precision."""
    return at_least_float32(tensor_BASD).transpose(1, 2).flatten(2).unflatten(-1, (num_heads, -1))


def _related(vectors_BSAD: Tensor, mask_BS: Tensor, across: Across) -> Tensor:
    """Scaled dot products: (B, A, S, S) across tokens, (B, S, A, A) across heads, (S, A, B, B) across samples.

    A padded query has 0 to every key, on both sides, and so no divergence.
    """
    vectors = vectors_BSAD.masked_fill(~mask_BS[:, :, None, None], 0.0)
    if across == "tokens":
        vectors = vectors.transpose(1, 2)
    elif across == "samples":
        vectors = vectors.permute(1, 2, 0, 3)
    return product(vectors / math.sqrt(vectors.shape[-1]), vectors.transpose(-1, -2))


def _valid_keys(mask_BS: Tensor, across: Across) -> Tensor:
    if across == "tokens":
        return mask_BS[:, None, None, :]
    if across == "heads":
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=mask_BS.device)
    return mask_BS.T[:, None, None, :]
