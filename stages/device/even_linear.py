"""Matrix products of few different heights, for a CPU that compiles each of them.

oneDNN, torch's library for bf16 on a CPU, compiles a kernel for every shape it meets. Batches of any number of rows and
any length are nearly all of different shapes, so that a sixth of a training step went into compiling, and the kernels
that are kept for reuse took gigabytes. Here the tokens of a batch are filled up with zeros to a multiple of 32 before a
product and cut off after it: a batch of some thousand tokens then has one of a few heights, for at most 31 rows more.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

HEIGHT = 32


class EvenLinear(nn.Linear):
    """A linear layer whose product has a multiple of 32 rows; what it answers is what `nn.Linear` answers."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        rows = input.shape[:-1].numel()
        missing = -rows % HEIGHT
        if not missing:
            return F.linear(input, self.weight, self.bias)
        filled = F.pad(input.reshape(rows, -1), (0, 0, 0, missing))
        answers = F.linear(filled, self.weight, self.bias)[:rows]
        return answers.view(*input.shape[:-1], -1)


def even_linears(module: nn.Module) -> None:
    """Make every plain linear layer inside `module` an even one, in place; parameters and their names stay."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = EvenLinear
