"""Affine maps fitted by ridge regression, from sums over rows in float64.

The penalty is the one of a fixed grid with the least generalised cross-validation (Golub, Heath & Wahba 1979, eq. 1.4).
The smallest is felt by a singular fit alone, such as that of layer-normed states, in which one direction is missing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

PENALTIES = tuple(10.0**exponent for exponent in range(-8, 2))
"""Ridge penalties that are tried, as multiples of the inputs' mean eigenvalue."""


class LeastSquares:
    """The map W x + b with the least Σ ‖W x + b − y‖² + λ ‖W‖² over all rows that were added.

    Only sums are kept, so that any number of rows fits into memory; they do not depend on how the rows were batched,
    up to rounding in float64.
    """

    def __init__(self, *, has_intercept: bool = True) -> None:
        """Create a fit without rows; without an intercept b is 0."""
        self.has_intercept = has_intercept
        self.num_rows = 0
        self._inputs: Any = 0.0
        self._outputs: Any = 0.0
        self._products: Any = 0.0
        self._cross: Any = 0.0
        self._energy: Any = 0.0

    def add(self, inputs_NI: Tensor, outputs_NO: Tensor) -> None:
        """Add rows of inputs x, (rows, inputs), and their outputs y, (rows, outputs)."""
        x, y = (tensor.detach().double().cpu() for tensor in (inputs_NI, outputs_NO))
        self.num_rows += len(x)
        self._inputs, self._outputs = self._inputs + x.sum(0), self._outputs + y.sum(0)
        self._products, self._cross = self._products + x.T @ x, self._cross + x.T @ y
        self._energy = self._energy + y.square().sum()

    def solved(self) -> tuple[Tensor, Tensor]:
        """Return W, (outputs, inputs), and b, (outputs,), in float64."""
        assert self.num_rows, "a fit without rows"
        n, x, y = self.num_rows, self._inputs / self.num_rows, self._outputs / self.num_rows
        if not self.has_intercept:
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        values, vectors = torch.linalg.eigh(self._products - n * torch.outer(x, x))
        values = values.clamp(min=0)
        along = vectors.T @ (self._cross - n * torch.outer(x, y))
        if not float(values.sum()):
            return torch.zeros_like(along).T, y
        rest = self._energy - n * y.square().sum()
        penalties = [penalty * float(values.mean()) for penalty in PENALTIES]
        best = min(penalties, key=lambda penalty: self._validation(values, along, rest, penalty))
        weight = (vectors @ (along / (values + best)[:, None])).T
        return weight, y - weight @ x

    def _validation(self, values: Tensor, along: Tensor, energy: Tensor, penalty: float) -> float:
        """Generalised cross-validation, n RSS / (n − degrees of freedom)²; infinite without freedom left."""
        explained = (along.square().sum(1) * (values + 2 * penalty) / (values + penalty).square()).sum()
        freedom = self.num_rows - float((values / (values + penalty)).sum()) - self.has_intercept
        if freedom <= 0:
            return math.inf
        return float((energy - explained).clamp(min=0)) * self.num_rows / freedom**2
