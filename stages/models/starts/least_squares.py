"""Affine maps fitted by least squares, from sums over rows in float64."""

from __future__ import annotations

import torch
from torch import Tensor

_RELATIVE_TOLERANCE = 1e-10
"""Directions whose variance is a smaller share of the largest are noise: a layer norm removes one direction entirely,
up to the rounding of float32."""


class LeastSquares:
    """The affine map W x + b with the smallest squared error Σ ‖W x + b − y‖² over all rows that were added.

    Only sums are kept, so that any number of rows fits into memory. Where several maps are equally good, because inputs
    are linearly dependent or rows are few, W has the smallest norm.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        self.num_rows = 0
        self._inputs = torch.zeros(num_inputs, dtype=torch.float64)
        self._outputs = torch.zeros(num_outputs, dtype=torch.float64)
        self._gram = torch.zeros(num_inputs, num_inputs, dtype=torch.float64)
        self._cross = torch.zeros(num_outputs, num_inputs, dtype=torch.float64)

    def add(self, inputs_NI: Tensor, outputs_NO: Tensor) -> None:
        """Add rows of inputs x, (rows, inputs), and their outputs y, (rows, outputs)."""
        inputs, outputs = (tensor.detach().double().cpu() for tensor in (inputs_NI, outputs_NO))
        self.num_rows += len(inputs)
        self._inputs += inputs.sum(0)
        self._outputs += outputs.sum(0)
        self._gram += inputs.T @ inputs
        self._cross += outputs.T @ inputs

    def solve(self, *, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return W, (outputs, inputs), and b, (outputs,), in float64.

        Args:
            ridge: penalty of ‖W‖² as a share of the inputs' mean variance; 0 for none.
        """
        rows = max(self.num_rows, 1)
        mean_inputs, mean_outputs = self._inputs / rows, self._outputs / rows
        gram = self._gram / rows - torch.outer(mean_inputs, mean_inputs)
        cross = self._cross / rows - torch.outer(mean_outputs, mean_inputs)
        gram.diagonal().add_(ridge * gram.diagonal().mean())
        weight = cross @ torch.linalg.pinv(gram, rtol=_RELATIVE_TOLERANCE, hermitian=True)
        return weight, mean_outputs - weight @ mean_inputs
