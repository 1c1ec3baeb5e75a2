"""Sums of the terms between two logged points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class Meter:
    """Sum and count of every term since the last logged point; kept on the device until read."""

    def __init__(self, keys: Iterable[str], device: torch.device) -> None:
        self.keys = tuple(keys)
        self.sums = torch.zeros(len(self.keys), dtype=torch.float64, device=device)
        self.counts = torch.zeros(len(self.keys), dtype=torch.float64)
        self.tokens = 0
        self.padded = 0

    def add(self, totals: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Add one microbatch's sums and counts."""
        self.sums += torch.stack([totals[key].detach().double() for key in self.keys])
        self.counts += torch.tensor([counts[key] for key in self.keys], dtype=torch.float64)

    def means(self) -> dict[str, float]:
        """Return each term's mean over the interval."""
        means = self.sums.cpu() / self.counts.clamp(min=1)
        return dict(zip(self.keys, means.tolist(), strict=True))

    def reset(self) -> None:
        """Begin the next interval."""
        self.sums.zero_()
        self.counts.zero_()
        self.tokens = self.padded = 0
