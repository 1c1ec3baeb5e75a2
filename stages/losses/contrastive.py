"""LRC-BERT's contrastive loss.

Shapes: L layers, B rows of a microbatch, N rows of the optimizer step, S sequence, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, product, unit_vectors


def angular_contrastive_loss(
    student_LBSH: Tensor, teacher_LNSH: Tensor, mask_BS: Tensor, pool_mask_NS: Tensor, index_B: Tensor
) -> Summed:
    """Pull each row towards the teacher's same row and away from its other rows (COS-NCE, LRC-BERT, Fu et al. 2021).

    With g(i, j) = 1 - cos(student's row i, teacher's row j), the cosine averaged over layers and over the positions
    that are real in both rows (0 if there are none),

        L_i = 1 - (1 / (2 (N - 1))) Σ_{j ≠ i} g(i, j) + g(i, i),

    summed over rows. A single row has no contrast, and the sum over j is 0. The teacher's rows are those of the whole
    optimizer step, so that total and count add up over any split into microbatches; a published port (GLMKD) takes the
    microbatch's rows alone, includes padded positions, and multiplies by L.

    Args:
        student_LBSH: the student's states of some rows, already projected to the teacher's width.
        teacher_LNSH: the teacher's states of all rows, without gradient; the longer of the two S is cut.
        mask_BS: True for real tokens of the student's rows.
        pool_mask_NS: True for real tokens of the teacher's rows.
        index_B: index of each of the B rows among the N rows.
    """
    num_positions = min(student_LBSH.shape[2], teacher_LNSH.shape[2])
    student, mask = student_LBSH[:, :, :num_positions], mask_BS[:, :num_positions].bool()
    teacher, pool_mask = teacher_LNSH[:, :, :num_positions], pool_mask_NS[:, :num_positions].bool()
    # Directions of padded positions are 0, so one product sums the cosines of positions that are real in both rows.
    cosine_BN = product(_directions(student, mask), _directions(teacher, pool_mask).T)
    shared_BN = product(mask.to(cosine_BN.dtype), pool_mask.to(cosine_BN.dtype).T)
    distance_BN = 1 - cosine_BN / (student.shape[0] * shared_BN.clamp(min=1))
    positive_B = distance_BN.gather(1, index_B[:, None])[:, 0]
    num_negatives = max(distance_BN.shape[1] - 1, 1)
    negatives_B = distance_BN.scatter(1, index_B[:, None], 0.0).sum(1)
    return Summed((1 - negatives_B / (2 * num_negatives) + positive_B).sum(), torch.tensor(index_B.shape[0]))


def _directions(states_LBSH: Tensor, mask_BS: Tensor) -> Tensor:
    """(B, L·S·H): the unit vectors of each row, concatenated."""
    states = at_least_float32(states_LBSH).masked_fill(~mask_BS[None, :, :, None], 0.0)
    return unit_vectors(states).transpose(0, 1).flatten(1)
