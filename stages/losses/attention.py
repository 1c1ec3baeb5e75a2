"""Losses between attention scores, and between attention probabilities.

Shapes: B batch, S sequence, A attention heads, D head width, N real tokens of the batch.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stages.losses.base import (
    Summed,
    at_least_float32,
    divergence_over,
    log_softmax_over,
    product,
    unit_vectors,
)


def attention_scores(
    query_BASD: Tensor,
    key_BASD: Tensor,
    mask_BS: Tensor,
    *,
    scaling: float,
    bias_BASS: Tensor | None = None,
    centred: bool = False,
) -> Tensor:
    """Return scaled dot products before mask and softmax, (B, A, S, S); 0 where query or key is padding.

    Centred scores have mean 0 over a query's real keys. Softmax does not change with the mean, since it is the same
    for all keys: an error in it is no error of the attention.

    Args:
        query_BASD: queries, after any position encoding of the model.
        key_BASD: keys, one per query head.
        mask_BS: True for real tokens.
        scaling: the model's factor, usually 1/sqrt(D).
        bias_BASS: added to the scaled products of real tokens, such as a position bias; B may be 1.
        centred: subtract each query's mean over its real keys.
    """
    padding = ~mask_BS.bool()[:, None, :, None]
    query = at_least_float32(query_BASD).masked_fill(padding, 0.0)
    key = at_least_float32(key_BASD).masked_fill(padding, 0.0)
    length_B111 = mask_BS.sum(-1)[:, None, None, None].clamp(min=1)
    if centred:
        # The mean of q · k over keys is q · (mean of k): centred keys give centred scores without another (S, S).
        key = (key - key.sum(-2, keepdim=True) / length_B111).masked_fill(padding, 0.0)
    scores = product(query * scaling, key.transpose(-1, -2))
    if bias_BASS is None:
        return scores
    invalid = padding | padding.transpose(-1, -2)
    bias = at_least_float32(bias_BASS).masked_fill(invalid, 0.0)
    if centred:
        bias = (bias - bias.sum(-1, keepdim=True) / length_B111).masked_fill(invalid, 0.0)
    return scores + bias


def attention_score_loss(
    student_BASS: Tensor,
    teacher_BASS: Tensor,
    mask_BS: Tensor,
    *,
    zero_at_padding: bool = False,
) -> Summed:
    """Return the squared error of attention scores over heads and pairs of real tokens (TinyBERT, eq. 7).

    Compares raw scores rather than probabilities, which the paper found better, or centred scores on both sides. Unlike
    the published code, padded queries and keys are left out of both sum and count.

    Args:
        student_BASS: the student's scores.
        teacher_BASS: the teacher's scores, without gradient; as many heads as the student's.
        mask_BS: True for real tokens.
        zero_at_padding: the scores are already 0 at padding, as from `attention_scores`, and need no masking.
    """
    student, teacher = at_least_float32(student_BASS), at_least_float32(teacher_BASS)
    mask = mask_BS.bool()
    if not zero_at_padding:
        invalid_B1SS = ~(mask[:, :, None] & mask[:, None, :])[:, None]
        student, teacher = (student.masked_fill(invalid_B1SS, 0), teacher.masked_fill(invalid_B1SS, 0))
    count = mask.sum(-1).square().sum() * student.shape[1]
    return Summed(F.mse_loss(student, teacher, reduction="sum"), count)


def attention_probability_loss(
    student_BASS: Tensor, teacher_BASS: Tensor, mask_BS: Tensor, *, kind: Literal["kl", "mse", "cosine"]
) -> Summed:
    """Return the distance of attention probabilities: softmaxes of scores over real keys, for real queries.

    `kl` is MiniLM's attention transfer (Wang et al. 2020); all three are options of arXiv 2308.13958 for
    TinyBERT's attention term.

    Args:
        student_BASS: the student's raw scores, before mask and softmax, as returned by `attention_scores`.
        teacher_BASS: the teacher's raw scores, without gradient; as many heads as the student's.
        mask_BS: True for real tokens.
        kind: `kl` sums KL(teacher ‖ student) and `cosine` 1 - cos of the two rows of probabilities, each counting heads
            times real queries; `mse` sums squared differences, counting heads times pairs of real tokens.
    """
    student, teacher = at_least_float32(student_BASS), at_least_float32(teacher_BASS)
    mask = mask_BS.bool()
    num_heads, length_B = student.shape[1], mask.sum(-1)
    keys_N1S = mask[:, None].expand(-1, mask.shape[1], -1)[mask][:, None]
    # Rows of real queries only, so that padding neither costs time nor has to be removed later.
    student_NAS, teacher_NAS = student.transpose(1, 2)[mask], teacher.transpose(1, 2)[mask]
    if kind == "kl":
        rows_NA = divergence_over(student_NAS, teacher_NAS, keys_N1S)
        return Summed(rows_NA.sum(), length_B.sum() * num_heads)
    student_NAS = log_softmax_over(student_NAS, keys_N1S).exp().masked_fill(~keys_N1S, 0.0)
    teacher_NAS = log_softmax_over(teacher_NAS, keys_N1S).exp().masked_fill(~keys_N1S, 0.0)
    if kind == "mse":
        error = (student_NAS - teacher_NAS).square().sum()
        return Summed(error, length_B.square().sum() * num_heads)
    cosine_NA = (unit_vectors(student_NAS) * unit_vectors(teacher_NAS)).sum(-1)
    return Summed((1 - cosine_NA).sum(), length_B.sum() * num_heads)
