"""LRC-BERT's contrastive loss, and the teacher's rows of all processes that it is contrasted with.

Shapes: L layers, B rows of a microbatch, N rows of the optimizer step, S sequence, H hidden width.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, product, unit_vectors


def angular_contrastive_loss(
    student_LBSH: Tensor, teacher_LNSH: Tensor, mask_BS: Tensor, pool_mask_NS: Tensor, own_B: Tensor
) -> Summed:
    """COS-NCE (LRC-BERT, Fu et al. 2021): nearer to the teacher's own row than to its other rows, summed over rows.

    With g(i, j) = 1 - cos(student's row i, teacher's row j), the cosine averaged over layers and over the positions
    that are real in both rows (0 where there is none),

        L_i = 1 - (1 / (2 (N - 1))) Σ_{j ≠ own} g(i, j) + g(i, own).

    With a single row there is nothing to contrast with, and the sum is 0. The teacher's rows are those of the whole
    optimizer step, so that total and count add up over any split into microbatches; a published port (GLMKD) takes the
    microbatch's rows alone, padded positions too, and multiplies by L.

    Args:
        student_LBSH: the student's states of some rows, already projected to the teacher's width.
        teacher_LNSH: the teacher's states of all rows, without gradient; the longer of the two S is cut.
        mask_BS: True for real tokens of the student's rows.
        pool_mask_NS: True for real tokens of the teacher's rows.
        own_B: which of the N rows each of the B rows is.
    """
    num_positions = min(student_LBSH.shape[2], teacher_LNSH.shape[2])
    student, mask = student_LBSH[:, :, :num_positions], mask_BS[:, :num_positions].bool()
    teacher, pool_mask = teacher_LNSH[:, :, :num_positions], pool_mask_NS[:, :num_positions].bool()
    # Directions of padded positions are 0, so one product sums the cosines of just the positions that are real in both.
    cosine_BN = product(_directions(student, mask), _directions(teacher, pool_mask).T)
    shared_BN = product(mask.to(cosine_BN.dtype), pool_mask.to(cosine_BN.dtype).T)
    distance_BN = 1 - cosine_BN / (student.shape[0] * shared_BN.clamp(min=1))
    own = distance_BN.gather(1, own_B[:, None])[:, 0]
    num_others = max(distance_BN.shape[1] - 1, 1)
    others = distance_BN.scatter(1, own_B[:, None], 0.0).sum(1)
    return Summed((1 - others / (2 * num_others) + own).sum(), torch.tensor(own_B.shape[0]))


def _directions(states_LBSH: Tensor, mask_BS: Tensor) -> Tensor:
    """Each row's unit vectors in one long vector, (B, L·S·H)."""
    states = at_least_float32(states_LBSH).masked_fill(~mask_BS[None, :, :, None], 0.0)
    return unit_vectors(states).transpose(0, 1).flatten(1)


def gather_rows(states_LNSH: Tensor, mask_NS: Tensor) -> tuple[Tensor, Tensor, int]:
    """The rows of all processes, in the order of their ranks.

    Args:
        states_LNSH: this process's states, for example the teacher's; other processes may have other N and S.
        mask_NS: True for real tokens.

    Returns:
        States of all processes' rows, padded with zeros to the longest S, without gradient; their mask; and the index
        of this process's first row. The inputs, detached, and 0 where torch.distributed is not initialised.
    """
    states, mask = states_LNSH.detach(), mask_NS.bool()
    if not (dist.is_available() and dist.is_initialized()):
        return states, mask, 0
    own_shape = torch.tensor(mask.shape, device=states.device)
    shapes = [torch.empty_like(own_shape) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, own_shape)
    num_rows, lengths = torch.stack(shapes).T.tolist()
    rows, length = max(num_rows) - mask.shape[0], max(lengths) - mask.shape[1]
    states = F.pad(states, (0, 0, 0, length, 0, rows)).contiguous()
    flags = F.pad(mask.to(torch.uint8), (0, length, 0, rows)).contiguous()
    all_states = [torch.empty_like(states) for _ in num_rows]
    all_flags = [torch.empty_like(flags) for _ in num_rows]
    dist.all_gather(all_states, states)
    dist.all_gather(all_flags, flags)
    return (
        torch.cat([part[:, :n] for part, n in zip(all_states, num_rows, strict=True)], dim=1),
        torch.cat([part[:n] for part, n in zip(all_flags, num_rows, strict=True)]).bool(),
        sum(num_rows[: dist.get_rank()]),
    )
