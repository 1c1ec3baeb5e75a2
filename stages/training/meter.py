"""Sums of the terms between two logged points, and the error if one is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from schemas.core.errors import NonFiniteLossError

# Terms or parameters that the error names.
_NAMED = 4


class Meter:
    """Sum and count of every term since the last logged point; kept on the device until read."""

    def __init__(self, keys: Iterable[str], device: torch.device) -> None:
        self.keys = tuple(keys)
        self.sums = torch.zeros(len(self.keys), dtype=torch.float64, device=device)
        self.counts = torch.zeros(len(self.keys), dtype=torch.float64)
        self.tokens = 0
        self.padded = 0

    def add(self, totals: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Add the sums and counts of a microbatch or a step."""
        self.sums += self.stacked(totals)
        self.counts += torch.tensor([counts[key] for key in self.keys], dtype=torch.float64)

    def stacked(self, totals: Mapping[str, Tensor]) -> Tensor:
        """Return the terms' sums as one tensor."""
        return torch.stack([totals[key].detach().double() for key in self.keys])

    def means(self) -> dict[str, float]:
        """Return each term's mean over the interval."""
        means = self.sums.cpu() / self.counts.clamp(min=1)
        return dict(zip(self.keys, means.tolist(), strict=True))

    def reset(self) -> None:
        """Begin the next interval."""
        self.sums.zero_()
        self.counts.zero_()
        self.tokens = self.padded = 0


def non_finite(step: int, means: Mapping[str, float], parameters: Mapping[str, nn.Parameter]) -> NonFiniteLossError:
    """Return the error, which names the terms or parameters.

    Args:
        step: the optimizer step.
        means: mean of each term since the last logged point, by the term's key.
        parameters: the trained parameters by name, with the step's gradient.
    """
    # Earlier steps of the interval were finite, or this one would not have begun.
    causes = [f"{key} is {mean}" for key, mean in means.items() if not math.isfinite(mean)]
    if not causes:
        causes = [
            f"no loss but the gradient of {name}"
            for name, parameter in parameters.items()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        ]
    more = f" and {len(causes) - _NAMED} more" if len(causes) > _NAMED else ""
    return NonFiniteLossError(
        f"loss or gradient is not finite at step {step}: {', '.join(causes[:_NAMED])}{more}; the optimizer was not "
        "stepped and the last state is kept: lower training.optimizer.learning_rate, set training.precision to fp32, "
        "or check the teacher and the rows of this step"
    )
