"""BERT-EMD's many-to-many layer map: an optimal transport from student layers to teacher layers.

Its cost attention, which changes the layers' weights from batch to batch, is left out: a step would depend on earlier
steps through more than the model's weights.

Shapes: M student layers, N teacher layers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.losses.base import at_least_float32


def transport_plan(cost_MN: Tensor, student_weights_M: Tensor, teacher_weights_N: Tensor) -> Tensor:
    """Return the cheapest plan that moves the student's layer weights onto the teacher's, (M, N), without gradient.

    Balanced optimal transport (BERT-EMD, Li et al. 2020): the plan F minimises Σ F_ij D_ij with F ≥ 0, rows that sum to
    the student's weights and columns that sum to the teacher's. The loss is Σ F_ij D_ij, with gradient through D alone.
    Solved as a linear program in float64 on the CPU (scipy's HiGHS).

    Args:
        cost_MN: D, the cost of matching a student layer with a teacher layer.
        student_weights_M: not negative; normalised to sum to 1.
        teacher_weights_N: not negative; normalised to sum to 1.

    Returns:
        The plan on the costs' device, in float32 (float64 for float64 costs). If a cost is NaN or infinite, every
        student layer is spread over all teacher layers, so that the loss becomes non-finite and training reports it.
    """
    from scipy.optimize import linprog  # heavy, and needed by this loss alone

    cost = cost_MN.detach().double().cpu().numpy()
    student, teacher = _shares(student_weights_M), _shares(teacher_weights_N)
    plan = np.outer(student, teacher)
    if np.isfinite(cost).all():
        num_students, num_teachers = cost.shape
        rows = np.kron(np.eye(num_students), np.ones(num_teachers))
        columns = np.kron(np.ones(num_students), np.eye(num_teachers))
        # The solver's tolerances are absolute, so costs are scaled to at most 1.
        scaled = cost / max(float(np.abs(cost).max()), np.finfo(np.float64).tiny)
        solution = linprog(
            scaled.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([student, teacher]), method="highs"
        )
        if solution.success:  # otherwise the outer product, which is a valid plan
            plan = solution.x.reshape(cost.shape).clip(min=0.0)
    dtype = at_least_float32(cost_MN).dtype
    return torch.from_numpy(plan).to(device=cost_MN.device, dtype=dtype)


def _shares(weights: Tensor) -> np.ndarray:
    shares: np.ndarray = weights.detach().double().cpu().numpy()
    return shares / shares.sum()
