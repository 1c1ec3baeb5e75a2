"""BERT-EMD's many-to-many layer map: an optimal transport from student layers to teacher layers.

Its cost attention, which moves the layers' weights from batch to batch, is left out: what a step learns would depend
on the steps before it by more than the weights.

Shapes: M student layers, N teacher layers.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from stages.losses.base import at_least_float32


def transport_plan(cost_MN: Tensor, student_weights_M: Tensor, teacher_weights_N: Tensor) -> Tensor:
    """The cheapest way to move the students' weights onto the teachers', (M, N), without gradient.

    Balanced optimal transport (BERT-EMD, Li et al. 2020): the plan F minimises Σ F_ij D_ij with F ≥ 0, rows that sum to
    the students' weights and columns that sum to the teachers'. The loss is then Σ F_ij D_ij, through D alone. It is
    solved as a linear program in float64 on the CPU (scipy's HiGHS).

    Args:
        cost_MN: D, what it costs to match a student layer with a teacher layer.
        student_weights_M: not negative; divided by their sum here.
        teacher_weights_N: not negative; divided by their sum here.

    Returns:
        The plan on the costs' device, in float32 (float64 where the costs are); where a cost is NaN or infinite, every
        student layer spread over all teacher layers, so that the loss shows it and training can say so.
    """
    cost = cost_MN.detach().double().cpu().numpy()
    student, teacher = _shares(student_weights_M), _shares(teacher_weights_N)
    plan = np.outer(student, teacher)
    if np.isfinite(cost).all():
        num_students, num_teachers = cost.shape
        rows = np.kron(np.eye(num_students), np.ones(num_teachers))
        columns = np.kron(np.ones(num_students), np.eye(num_teachers))
        # Costs of any size, seen by a solver whose tolerances are absolute.
        scaled = cost / max(float(np.abs(cost).max()), np.finfo(np.float64).tiny)
        solution = linprog(
            scaled.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([student, teacher]), method="highs"
        )
        if solution.success:  # else equal shares, which are a plan too
            plan = solution.x.reshape(cost.shape).clip(min=0.0)
    dtype = at_least_float32(cost_MN).dtype
    return torch.from_numpy(plan).to(device=cost_MN.device, dtype=dtype)


def _shares(weights: Tensor) -> np.ndarray:
    shares: np.ndarray = weights.detach().double().cpu().numpy()
    return shares / shares.sum()
