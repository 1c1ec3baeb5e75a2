"""Losses between the geometry of hidden states: pairs and triplets of tokens, layers or sequences.

No projection is needed: relations are formed within the width of each model. Sources of the formulas:

- CKD (Park et al. 2021, "Distilling Linguistic Context for Language Model Compression") and its authors' `loss.py`
  (GeondoPark/CKD at 28b124b): `word_pair_loss`, `word_angle_loss`, `layer_pair_loss`, `layer_angle_loss`, with the
  options its README trains with: divergence of cosines for pairs, squared error for angles.
- MGSKD (Liu et al. 2022, "Multi-Granularity Structural Knowledge Distillation for Language Model Compression") and its
  authors' `loss.py` (LC97-pku/MGSKD at 0a1de37): `token_pair_loss`, `token_angle_loss`, `sample_angle_loss`. Its span
  level is left out: it averages tokens over phrases that a chunker marks in the text beforehand, which no batch here
  has.

Counts are this project's: real tokens, and triplets of three different, real members. The authors also average over
padded and degenerate triplets, whose error is 0 on both sides; the docstrings give the factor.

Shapes: B batch, S sequence, H hidden width, L layers, N real tokens of the batch, W window, K anchors, M neighbours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses.attention import attention_score_loss, attention_scores
from stages.losses.base import Summed, at_least_float32, divergence_over, log_softmax_over, product, unit_vectors
from stages.losses.states import pool_states


def word_pair_loss(student_BSH: Tensor, teacher_BSH: Tensor, mask_BS: Tensor) -> Summed:
    """Return CKD's word relation of pairs: KL(teacher ‖ student) of each token's cosines to the others.

    The softmax runs over the sequence's other real tokens; a token alone in its sequence adds 0. Counts real tokens,
    Σ length; the authors divide the same sum by the number of pairs, Σ length².

    Args:
        student_BSH: the student's states of one layer.
        teacher_BSH: the teacher's, without gradient; H may differ.
        mask_BS: True for real tokens.
    """
    mask = mask_BS.bool()
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    valid_BSS = mask[:, :, None] & mask[:, None, :] & ~itself
    student_BSS = _cosines(_without_padding(student_BSH, mask))
    teacher_BSS = _cosines(_without_padding(teacher_BSH, mask))
    return Summed(divergence_over(student_BSS, teacher_BSS, valid_BSS).sum(), mask.sum())


def word_angle_loss(student_BSH: Tensor, teacher_BSH: Tensor, mask_BS: Tensor, *, window: int) -> Summed:
    """Return CKD's word relation of triplets: squared error of angles in a window, counting triplets.

    The angle at token i between the tokens j and k is the cosine of x_i - x_j and x_i - x_k; i, j and k are different
    real tokens, j and k (in both orders) at most (window - 1) / 2 away from i. The authors average over all window²
    positions around each real token; positions past the sequence's ends repeat its first or last position.

    Args:
        student_BSH: the student's states of one layer.
        teacher_BSH: the teacher's, without gradient; H may differ.
        mask_BS: True for real tokens.
        window: odd, including the centre; the authors use 21.
    """
    assert window % 2 == 1, window
    mask = mask_BS.bool()
    row_N, centre_N = mask.nonzero(as_tuple=True)
    reach = torch.arange(-(window // 2), window // 2 + 1, device=mask.device)
    index_NW = centre_N[:, None] + reach
    inside_NW = (index_NW >= 0) & (index_NW < mask.shape[1]) & (reach != 0)
    index_NW = index_NW.clamp(0, mask.shape[1] - 1)
    valid_NW = inside_NW & mask[row_N[:, None], index_NW]

    def angles(states_BSH: Tensor) -> Tensor:
        states = _without_padding(states_BSH, mask)
        return _cosines(states[row_N, centre_N][:, None] - states[row_N[:, None], index_NW])

    error_NWW = (angles(student_BSH) - angles(teacher_BSH)).square()
    return _over_pairs(error_NWW, valid_NW)


def layer_pair_loss(student_LBSH: Tensor, teacher_LBSH: Tensor, mask_BS: Tensor) -> Summed:
    """Return CKD's layer-transforming relation of pairs, counting real tokens times layers.

    `word_pair_loss` between the layers' states of one token instead of one layer's states of a sequence. The authors'
    average is this one divided by L.

    Args:
        student_LBSH: the student's states of L layers.
        teacher_LBSH: the teacher's of the matched layers, without gradient; H may differ.
        mask_BS: True for real tokens.
    """
    student_NLH, teacher_NLH = _by_token(student_LBSH, mask_BS), _by_token(teacher_LBSH, mask_BS)
    num_tokens, num_layers = student_NLH.shape[:2]
    others_LL = ~torch.eye(num_layers, dtype=torch.bool, device=student_NLH.device)
    divergence_NL = divergence_over(_cosines(student_NLH), _cosines(teacher_NLH), others_LL)
    return Summed(divergence_NL.sum(), torch.tensor(num_tokens * num_layers))


def layer_angle_loss(student_LBSH: Tensor, teacher_LBSH: Tensor, mask_BS: Tensor) -> Summed:
    """Return CKD's layer-transforming relation of triplets: squared error of angles, counting triplets.

    The angle at one layer's state of a real token between the states of two other layers, in both orders:
    L (L - 1) (L - 2) triplets per token. The authors' average is this one times (L - 1) (L - 2) / L².

    Args:
        student_LBSH: the student's states of L layers.
        teacher_LBSH: the teacher's of the matched layers, without gradient; H may differ.
        mask_BS: True for real tokens.
    """
    student_NLH, teacher_NLH = _by_token(student_LBSH, mask_BS), _by_token(teacher_LBSH, mask_BS)
    error_NLLL = (_angles(student_NLH) - _angles(teacher_NLH)).square()
    return _over_triplets(error_NLLL)


def token_pair_loss(student_BSH: Tensor, teacher_BSH: Tensor, mask_BS: Tensor, *, num_heads: int) -> Summed:
    """Return MGSKD's token relation of pairs: squared error of scaled dot products.

    Each state is split into `num_heads` parts, and the products are divided by the root of a part's width. Counts heads
    times pairs of real tokens, as the authors do.

    Args:
        student_BSH: the student's states of one layer.
        teacher_BSH: the teacher's, without gradient; H may differ.
        mask_BS: True for real tokens.
        num_heads: divides both H; the authors use 64.
    """
    student = _relation_scores(student_BSH, mask_BS, num_heads)
    return attention_score_loss(student, _relation_scores(teacher_BSH, mask_BS, num_heads), mask_BS)


def token_angle_loss(
    student_BSH: Tensor, teacher_BSH: Tensor, mask_BS: Tensor, *, num_heads: int, num_anchors: int, num_neighbours: int
) -> Summed:
    """Return MGSKD's token relation of triplets: smooth L1 error of angles at salient tokens, counting triplets.

    The teacher selects the tokens: the softmax of its scaled dot products (`token_pair_loss`) over real tokens is the
    attention from each token to each other token. Anchors are the tokens with the most attention, summed over heads
    and queries; an anchor's neighbours are the other tokens it attends to most, summed over heads. The angle at an
    anchor lies between its differences, at full width, to two different neighbours, in both orders. The authors also
    count an anchor among its own neighbours in sequences of at most `num_neighbours` tokens.

    Args:
        student_BSH: the student's states of one layer.
        teacher_BSH: the teacher's, without gradient; H may differ.
        mask_BS: True for real tokens.
        num_heads: divides the teacher's H; the authors use 64.
        num_anchors: the most anchors in a sequence; the authors use 20.
        num_neighbours: the most neighbours of an anchor; the authors use 20.
    """
    mask = mask_BS.bool()
    anchor_BK, neighbour_BKM = _salient_tokens(
        teacher_BSH, mask, num_heads=num_heads, num_anchors=num_anchors, num_neighbours=num_neighbours
    )
    row_B11 = torch.arange(len(mask), device=mask.device)[:, None, None]
    valid_BKM = mask[row_B11[:, 0], anchor_BK][:, :, None] & mask[row_B11, neighbour_BKM]
    valid_BKM = valid_BKM & (neighbour_BKM != anchor_BK[:, :, None])

    def angles(states_BSH: Tensor) -> Tensor:
        states = _without_padding(states_BSH, mask)
        return _cosines(states[row_B11, anchor_BK[:, :, None]] - states[row_B11, neighbour_BKM])

    error_BKMM = F.smooth_l1_loss(angles(student_BSH), angles(teacher_BSH), reduction="none")
    return _over_pairs(error_BKMM, valid_BKM)


def sample_angle_loss(student_BSH: Tensor, teacher_BSH: Tensor, mask_BS: Tensor, *, num_heads: int) -> Summed:
    """Return MGSKD's sample relation: smooth L1 error of angles between sequences.

    A sequence is the mean of its real tokens' states, split into `num_heads` parts. For each part, the angle at one row
    lies between its differences to two other rows, in both orders. Counts heads times triplets of rows; the authors'
    average over B rows is this one times (B - 1) (B - 2) / B².

    The loss relates the rows of a batch to each other: total and count do not add up over a split of the rows, and
    gradients change with the microbatch size. With fewer than three rows that have a real token both are 0.

    Args:
        student_BSH: the student's states of one layer.
        teacher_BSH: the teacher's, without gradient; H may differ.
        mask_BS: True for real tokens.
        num_heads: divides both H; the authors use 64.
    """

    def by_head(states_BSH: Tensor) -> Tensor:
        pooled_B1H, pooled_mask_B1 = pool_states(states_BSH, mask_BS, pooling="mean")
        rows_BH = pooled_B1H[:, 0][pooled_mask_B1[:, 0]]
        return rows_BH.unflatten(-1, (num_heads, -1)).transpose(0, 1)

    student, teacher = _angles(by_head(student_BSH)), _angles(by_head(teacher_BSH))
    return _over_triplets(F.smooth_l1_loss(student, teacher, reduction="none"))


def _without_padding(states_BSH: Tensor, mask_BS: Tensor) -> Tensor:
    return at_least_float32(states_BSH).masked_fill(~mask_BS[:, :, None], 0.0)


def _by_token(states_LBSH: Tensor, mask_BS: Tensor) -> Tensor:
    """(N, L, H): the states of each real token in all layers."""
    return at_least_float32(states_LBSH.permute(1, 2, 0, 3)[mask_BS.bool()])


def _relation_scores(states_BSH: Tensor, mask_BS: Tensor, num_heads: int) -> Tensor:
    """(B, num_heads, S, S): scaled dot products of each part of a state; 0 at padding."""
    parts = states_BSH.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return attention_scores(parts, parts, mask_BS, scaling=1 / math.sqrt(parts.shape[-1]))


def _salient_tokens(
    states_BSH: Tensor, mask_BS: Tensor, *, num_heads: int, num_anchors: int, num_neighbours: int
) -> tuple[Tensor, Tensor]:
    """Positions of anchors (B, K) and of their neighbours (B, K, M), by descending score.

    In a sequence with too few real tokens, padding fills up the anchors, and padding or the anchor the neighbours.
    """
    scores = _relation_scores(states_BSH.detach(), mask_BS, num_heads)
    attended = log_softmax_over(scores, mask_BS[:, None, None, :]).exp()
    attended = attended.masked_fill(~(mask_BS[:, None, :, None] & mask_BS[:, None, None, :]), 0.0)
    attention_BSS = attended.sum(1)
    # Below every sum of probabilities, so that excluded tokens come last.
    received_BS = attention_BSS.sum(1).masked_fill(~mask_BS, -1.0)
    itself = torch.eye(mask_BS.shape[1], dtype=torch.bool, device=mask_BS.device)
    attention_BSS = attention_BSS.masked_fill(itself | ~mask_BS[:, None, :], -1.0)
    # Stable, so that ties go to the earlier token whatever the padding.
    anchor_BK = received_BS.sort(stable=True, dim=-1, descending=True).indices[:, :num_anchors]
    row_B1 = torch.arange(len(mask_BS), device=mask_BS.device)[:, None]
    attention_BKS = attention_BSS[row_B1, anchor_BK]
    order_BKS = attention_BKS.sort(stable=True, dim=-1, descending=True).indices
    return anchor_BK, order_BKS[:, :, :num_neighbours]


def _cosines(vectors: Tensor) -> Tensor:
    """(…, n, n): cosines between all pairs of the vectors (…, n, H)."""
    units = unit_vectors(vectors)
    return product(units, units.transpose(-1, -2))


def _angles(vectors: Tensor) -> Tensor:
    """(…, n, n, n): cosines of the angles of all triplets of the vectors (…, n, H); the first n is the vertex."""
    return _cosines(vectors[..., :, None, :] - vectors[..., None, :, :])


def _over_pairs(error: Tensor, valid: Tensor) -> Summed:
    """Errors (…, n, n) summed over pairs of two different valid members (…, n)."""
    itself = torch.eye(valid.shape[-1], dtype=torch.bool, device=valid.device)
    pairs = valid[..., :, None] & valid[..., None, :] & ~itself
    return Summed(error.masked_fill(~pairs, 0.0).sum(), pairs.sum())


def _over_triplets(error: Tensor) -> Summed:
    """Errors (…, n, n, n) summed over triplets of three different members."""
    others = ~torch.eye(error.shape[-1], dtype=torch.bool, device=error.device)
    return _over_pairs(error, others.expand(error.shape[:-1]))
