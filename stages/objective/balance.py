"""Weights of latent terms by their shares of the gradient, instead of by hand.

GradNorm (Chen et al. 2018, arXiv 1711.02257) keeps the gradient norms of several losses in proportion by training their
weights; here the weights are computed from measured norms, without a learning rate of their own. arXiv 2308.13958 tunes
such weights by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_EVERY = 64
"""Steps between two measurements; before, at steps 0, 1, 2, 4, 8, … while the norms still change quickly.

A measurement costs a quarter to a half of a step, so under 1 % in the long run and 3 % of 200 steps.
"""
_DECAY = 0.8
"""Weight of the earlier measurements against a new one."""
_SMALLEST = 1e-4
"""Smallest share that a term is taken to have. A term that is 0, such as one between copied layers, keeps a finite
factor, and one that is nearly learned is not reduced to amplified noise."""


class GradientBalance(nn.Module):
    """Factors that give terms of equal weight equal shares of the student's gradient.

    With g_i the norm of the gradient of term i at weight 1 in the student's parameters, and p_i = g_i / Σ_j g_j,
    smoothed over measurements, the factor of term i is f_i = (Σ_j w_j p_j / Σ_j w_j) / p_i for weights w. So f_i g_i is
    the same for all terms, and Σ w_i f_i g_i = Σ w_i g_i: the gradient keeps its scale. Learning rate, clip norm and
    the weights of label terms keep their meaning.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Create the balance; every factor is 1 until something is measured.

        Args:
            weights: configured weight of each term, by name.
        """
        super().__init__()
        self.weights = dict(weights)
        self._shares = dict.fromkeys(weights, 0.0)
        self._number, self._last = 0, -1

    def is_due(self, step: int) -> bool:
        """Return whether the gradients are to be measured before optimizer step `step`."""
        is_scheduled = step % _EVERY == 0 or (step < _EVERY and step.bit_count() == 1)
        return is_scheduled and step > self._last and len(self.weights) > 1

    def note(self, step: int, norms: Mapping[str, float]) -> None:
        """Take a measurement into the shares; ignored if no term has a gradient, or if one is not finite.

        Args:
            step: the optimizer step.
            norms: norm of each term's gradient at weight 1, by name.
        """
        self._last = step
        total = sum(norms[name] for name in self.weights)
        if not 0 < total < math.inf:
            return
        self._number += 1
        # The bias correction of Adam, in a form that keeps the shares' sum at 1.
        part = (1 - _DECAY) / (1 - _DECAY**self._number)
        for name, share in self._shares.items():
            self._shares[name] = share + part * (norms[name] / total - share)

    def factors(self) -> dict[str, float]:
        """Return the factor on each term's weight, by name."""
        if not self._number:
            return dict.fromkeys(self.weights, 1.0)
        shares = {name: max(share, _SMALLEST) for name, share in self._shares.items()}
        equal = sum(self.weights[name] * share for name, share in shares.items()) / sum(self.weights.values())
        return {name: equal / share for name, share in shares.items()}

    # Plain numbers rather than buffers: reading a buffer in every step would wait for the device.
    def get_extra_state(self) -> Tensor:
        """Return number and step of the measurements and the shares, for the training state."""
        return torch.tensor([self._number, self._last, *self._shares.values()], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from a training state."""
        number, last, *shares = state.tolist()
        self._number, self._last = int(number), int(last)
        self._shares = dict(zip(self.weights, shares, strict=True))
