"""Losses of heads that predict a value, several labels, a span, a choice or a vector.

Shapes: B batch, S sequence, C labels or choices, H width of the vectors.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, divergence_over, log_softmax_over, unit_vectors


def value_loss(student_B: Tensor, target_B: Tensor, *, scale: Tensor | float = 1.0) -> Summed:
    """Return the squared error of one value per row, in units of `scale`, summed over rows.

    With scale 1 it is the loss that BERT and TinyBERT train STS-B with.

    Args:
        student_B: the student's values.
        target_B: the teacher's values or the data's.
        scale: standard deviation of the training rows' values; (B,) if the rows belong to several tasks.
    """
    error_B = (at_least_float32(student_B) - at_least_float32(target_B)) / scale
    return Summed(error_B.square().sum(), torch.tensor(len(student_B)))


def multi_label_loss(student_BC: Tensor, labels_BC: Tensor) -> Summed:
    """Return the binary cross entropy averaged over labels, summed over rows.

    Its mean is transformers' loss for `multi_label_classification`.

    Args:
        student_BC: logits.
        labels_BC: 1 where a row has the label, else 0; values in between are probabilities.
    """
    student = at_least_float32(student_BC)
    entropy_BC = F.binary_cross_entropy_with_logits(student, labels_BC.to(student.dtype), reduction="none")
    return Summed(entropy_BC.mean(-1).sum(), torch.tensor(len(student)))


def soft_multi_label_loss(
    student_BC: Tensor, teacher_BC: Tensor, *, temperature: float, kind: Literal["kl", "mse"] = "kl"
) -> Summed:
    """Return T² · KL of the Bernoulli distributions σ(logit / T), averaged over labels, summed over rows.

    Hinton et al. 2015 (section 2) applied to each label separately; `mse` compares the logits.
    """
    student, teacher = at_least_float32(student_BC), at_least_float32(teacher_BC)
    rows = torch.tensor(len(student))
    if kind == "mse":
        return Summed((student - teacher).square().mean(-1).sum(), rows)
    target_BC = torch.sigmoid(teacher / temperature)
    # Cross entropy minus the teacher's entropy is the divergence.
    cross_BC = F.binary_cross_entropy_with_logits(student / temperature, target_BC, reduction="none")
    entropy_BC = F.binary_cross_entropy_with_logits(teacher / temperature, target_BC, reduction="none")
    return Summed((cross_BC - entropy_BC).mean(-1).sum() * temperature**2, rows)


def span_loss(student_BS2: Tensor, positions_B2: Tensor, mask_BS: Tensor) -> Summed:
    """Return the mean cross entropy of a span's start and end, summed over rows (Devlin et al. 2019, section 4.2).

    Args:
        student_BS2: start and end logits of every token.
        positions_B2: positions of the first and last token; 0 (the sequence's first token) if there is no answer.
        mask_BS: True for real tokens. Published code includes padding in the softmax.
    """
    valid_B1S = mask_BS.bool()[:, None, :]
    log_probability_B2S = log_softmax_over(at_least_float32(student_BS2).mT, valid_B1S)
    chosen_B2 = log_probability_B2S.gather(-1, positions_B2[..., None]).squeeze(-1)
    return Summed(-chosen_B2.mean(-1).sum(), valid_B1S.any(-1).sum())


def soft_span_loss(
    student_BS2: Tensor, teacher_BS2: Tensor, mask_BS: Tensor, *, temperature: float, kind: Literal["kl", "mse"] = "kl"
) -> Summed:
    """Return the mean distance to the teacher's distributions of start and end positions, summed over rows.

    Args:
        student_BS2: start and end logits of every token.
        teacher_BS2: the teacher's.
        mask_BS: True for real tokens; others are left out.
        temperature: as in `soft_label_loss`.
        kind: `kl`, or `mse` of the logits, averaged over a row's real tokens.
    """
    valid_BS = mask_BS.bool()
    rows = valid_BS.any(-1).sum()
    student, teacher = at_least_float32(student_BS2), at_least_float32(teacher_BS2)
    if kind == "mse":
        error_BS2 = torch.where(valid_BS[..., None], student - teacher, 0.0).square()
        return Summed((error_BS2.mean(-1).sum(-1) / valid_BS.sum(-1).clamp(min=1)).sum(), rows)
    divergence_B2 = divergence_over(student.mT / temperature, teacher.mT / temperature, valid_BS[:, None, :])
    return Summed(divergence_B2.mean(-1).sum() * temperature**2, rows)


def choice_loss(student_BC: Tensor, labels_B: Tensor, valid_BC: Tensor) -> Summed:
    """Return the cross entropy over each row's choices, summed over rows, as transformers' multiple-choice heads do.

    Args:
        student_BC: a score for each choice.
        labels_B: index of the right choice; -1 marks a row without one, which does not count.
        valid_BC: True for choices; False fills up rows with fewer choices than others.
    """
    known_B = labels_B >= 0
    log_probability_BC = log_softmax_over(at_least_float32(student_BC), valid_BC)
    chosen_B = log_probability_BC.gather(-1, labels_B.clamp(min=0)[:, None]).squeeze(-1)
    return Summed(-(chosen_B * known_B).sum(), known_B.sum())


def soft_choice_loss(
    student_BC: Tensor, teacher_BC: Tensor, valid_BC: Tensor, *, temperature: float, kind: Literal["kl", "mse"] = "kl"
) -> Summed:
    """Return the distance to the teacher's distribution over each row's choices, summed over rows.

    Args:
        student_BC: a score for each choice.
        teacher_BC: the teacher's.
        valid_BC: True for choices.
        temperature: as in `soft_label_loss`.
        kind: `kl`, or `mse` of the scores, averaged over a row's choices.
    """
    student, teacher = at_least_float32(student_BC), at_least_float32(teacher_BC)
    rows = valid_BC.any(-1).sum()
    if kind == "mse":
        error_BC = torch.where(valid_BC, student - teacher, 0.0).square()
        return Summed((error_BC.sum(-1) / valid_BC.sum(-1).clamp(min=1)).sum(), rows)
    divergence_B = divergence_over(student / temperature, teacher / temperature, valid_BC)
    return Summed(divergence_B.sum() * temperature**2, rows)


def vector_loss(student_BH: Tensor, teacher_BH: Tensor, *, kind: Literal["kl", "mse"] = "kl") -> Summed:
    """Return 1 - cosine of the student's and the teacher's vector of each row, summed over rows.

    Args:
        student_BH: the student's vectors, as wide as the teacher's.
        teacher_BH: the teacher's.
        kind: `mse` is the squared error averaged over H (Reimers & Gurevych 2020, eq. 1, for one language). A vector
            is no distribution, so that `kl`, the default of the other heads, stands for the cosine here.
    """
    student, teacher = at_least_float32(student_BH), at_least_float32(teacher_BH)
    rows = torch.tensor(len(student))
    if kind == "mse":
        return Summed((student - teacher).square().mean(-1).sum(), rows)
    return Summed((1 - (unit_vectors(student) * unit_vectors(teacher)).sum(-1)).sum(), rows)
