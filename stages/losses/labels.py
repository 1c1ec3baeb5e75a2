"""Losses between the student's logits and the teacher's logits or class labels.

Shapes: B batch, C classes, K teachers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses.base import Summed, at_least_float32, log_softmax_over


def soft_label_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    *,
    temperature: float,
    kind: Literal["kl", "mse"] = "kl",
    row_weights_B: Tensor | None = None,
) -> Summed:
    """Return the distance to the teacher's logits, summed over rows.

    Args:
        student_BC: the student's logits.
        teacher_BC: the teacher's logits, without gradient.
        temperature: T of the softmax; the factor T² keeps the gradient's size as T grows. `mse` does not depend on it.
        kind: `kl`, T² · KL(softmax(teacher/T) ‖ softmax(student/T)) (Hinton et al. 2015, section 2); `mse`, the squared
            difference of the logits, averaged over the classes: T² times that of the logits over T, for every T.
            Annealing-KD (Jafari et al. 2021) uses it and scales the teacher's logits first.
        row_weights_B: weights of the rows in the sum; the count ignores them.
    """
    student, teacher = at_least_float32(student_BC), at_least_float32(teacher_BC)
    rows, num_classes = torch.tensor(student.shape[0]), student.shape[-1]
    if kind == "mse":
        error_BC = (student - teacher).square()
        return Summed(_weighted_sum(error_BC, row_weights_B) / num_classes, rows)
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence_BC = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return Summed(_weighted_sum(divergence_BC, row_weights_B) * temperature**2, rows)


def _weighted_sum(terms_BC: Tensor, row_weights_B: Tensor | None) -> Tensor:
    return (terms_BC if row_weights_B is None else terms_BC * row_weights_B[:, None]).sum()


def hard_label_loss(
    student_BC: Tensor, labels_B: Tensor, *, groups: tuple[tuple[int, int], ...] | None = None
) -> Summed:
    """Return the cross entropy against class labels, summed over rows.

    Args:
        student_BC: the student's logits.
        labels_B: class indices; -1 marks a row without a label, which does not count.
        groups: half-open ranges that partition the classes, one per task that shares the output layer; a row's softmax
            covers the classes of its label's range only, and the other classes receive no gradient from it.
    """
    student, known_B = at_least_float32(student_BC), labels_B >= 0
    rows = known_B.sum()
    if groups is None:
        return Summed(F.cross_entropy(student, labels_B, reduction="sum", ignore_index=-1), rows)
    classes = [index for start, stop in groups for index in range(start, stop)]
    assert classes == list(range(student.shape[-1])), f"{groups} do not partition the classes"
    group_of_class = [group for group, (start, stop) in enumerate(groups) for _ in range(start, stop)]
    group_C = torch.tensor(group_of_class, device=labels_B.device)
    label_B = labels_B.clamp(min=0)
    valid_BC = group_C[None, :] == group_C[label_B][:, None]
    log_probability_B = log_softmax_over(student, valid_BC).gather(1, label_B[:, None])[:, 0]
    return Summed(-(log_probability_B * known_B).sum(), rows)


def confidence_weights(teacher_logits_KBC: Tensor, labels_B: Tensor) -> Tensor:
    """Return CA-MKD's weights of K teachers in each row, (K, B) (Zhang et al. 2022).

    A weight is (1 - softmax over teachers of their cross entropies) / (K - 1), and 1 for a single teacher: the better a
    teacher predicts a row's label, the more it counts, and a row's weights sum to 1. The authors weigh hidden states
    and soft labels with them; their code divides by K once more.

    Args:
        teacher_logits_KBC: logits of every teacher.
        labels_B: class indices.
    """
    num_teachers, num_rows, num_classes = teacher_logits_KBC.shape
    logits = at_least_float32(teacher_logits_KBC.detach())
    cross_entropy_KB = F.cross_entropy(
        logits.reshape(-1, num_classes), labels_B.repeat(num_teachers), reduction="none"
    ).view(num_teachers, num_rows)
    if num_teachers == 1:
        return torch.ones_like(cross_entropy_KB)
    return (1 - F.softmax(cross_entropy_KB, dim=0)) / (num_teachers - 1)
