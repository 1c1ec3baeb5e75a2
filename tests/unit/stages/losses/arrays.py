"""Sizes, random tensors and the softmax in numpy for tests of losses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

B, A, S, D, H, C = 3, 2, 5, 4, 6, 3


LENGTHS = (5, 3, 1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
