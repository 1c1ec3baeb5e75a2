"""Linear layers whose products have few distinct heights, for a CPU that compiles a kernel for each.

oneDNN, the library of these products, compiles a kernel for every shape. Batches of varying rows and lengths nearly
all have different shapes: a sixth of a training step was spent compiling, and the cached kernels took gigabytes. Here
the tokens of a batch are padded with zeros to a multiple of 32 before a product and cut off after it, so that batches
of some thousand tokens share a few heights, at the cost of at most 31 more rows.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stages.device.onednn import OneDnnLinear, multiplies

HEIGHT = 32


class EvenLinear(nn.Linear):
    """A linear layer that computes a multiple of 32 rows; its output is that of `nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self.product(input, self.weight)

    def product(self, input: Tensor, weight: Tensor) -> Tensor:
        """Return `input @ weight.T` plus the bias."""
        rows = input.shape[:-1].numel()
        if multiplies(input, weight):
            outputs = OneDnnLinear.apply(input.reshape(rows, -1), weight, self.bias, HEIGHT)
        elif missing := -rows % HEIGHT:
            filled = F.pad(input.reshape(rows, -1), (0, 0, 0, missing))
            outputs = F.linear(filled, weight, self.bias)[:rows]
        else:
            return F.linear(input, weight, self.bias)
        return outputs.view(*input.shape[:-1], -1)


def even_linears(module: nn.Module) -> None:
    """Turn every plain linear layer inside `module` into an `EvenLinear`, in place; parameter names stay."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = EvenLinear
