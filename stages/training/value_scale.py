"""Standardised training of values: a head learns mean 0 and deviation 1 but predicts in the task's units.

A new head predicts values near 0 with a spread well below 1, and learning rates and losses are chosen for targets of
that size: values from -3 to 120 are learnt slowly, and their squared errors outweigh all other terms. So the last layer
of a head in training computes z, and a hook returns scale · z + mean, in float32 for any number format. The model
predicts in the task's units throughout, and losses divide errors by the scale. Saved models have scale and mean folded
into the layer's weight and bias, so that transformers alone predicts the same values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.models.heads import output_layer

_SCALE, _MEAN, _HOOK = "unit_scale", "unit_mean", "_unit_hook"


@dataclass(frozen=True)
class Units:
    """Mean and standard deviation of the training rows' values for each output of a head; 0 and 1 for classes."""

    means: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, tasks: Iterable[TaskRows]) -> Units | None:
        """Return the units of the tasks' concatenated outputs; None if no output is a value."""
        means: list[float] = []
        scales: list[float] = []
        has_values = False
        for rows in tasks:
            values = kind_of(rows.problem).mean_and_deviation(rows.train)
            mean, scale = values or (0.0, 1.0)
            means += [mean] * len(rows.labels)
            scales += [scale] * len(rows.labels)
            has_values = has_values or values is not None
        return cls(tuple(means), tuple(scales)) if has_values else None


def fresh_in_units(model: nn.Module, units: Units) -> None:
    """Make a new head predict in the task's units, near their mean at first."""
    layer = output_layer(model, len(units.means))
    if layer is not None:
        _attach(layer, *_of_layer(layer, units))


@torch.no_grad()
def trained_in_units(model: nn.Module, units: Units) -> None:
    """Make a trained head compute z first; its predictions stay the same up to rounding.

    In bf16 a bias of 60 would leave steps of 0.25 between neighbouring predictions.
    """
    layer = output_layer(model, len(units.means))
    if layer is None:
        return
    scale, mean = _of_layer(layer, units)
    layer.weight.div_(scale[:, None])
    if layer.bias is not None:
        layer.bias.sub_(mean).div_(scale)
    _attach(layer, scale, mean)


@torch.no_grad()
def fold_units(model: nn.Module) -> None:
    """Fold scale and mean into the last layer's weight and bias; does nothing without a scale."""
    for layer in model.modules():
        if hasattr(layer, _HOOK):
            scale, mean = layer.get_buffer(_SCALE), layer.get_buffer(_MEAN)
            assert isinstance(layer, nn.Linear)
            layer.weight.mul_(scale[:, None])
            if layer.bias is not None:
                layer.bias.mul_(scale).add_(mean)
            getattr(layer, _HOOK).remove()
            for name in (_SCALE, _MEAN, _HOOK):
                delattr(layer, name)


def standardised(layer: nn.Linear, predictions: Tensor) -> Tensor:
    """Return the z for which a head's last layer predicts some values; the values themselves without a scale."""
    if not hasattr(layer, _HOOK):
        return predictions
    return (predictions - layer.get_buffer(_MEAN)) / layer.get_buffer(_SCALE)


def _of_layer(layer: nn.Linear, units: Units) -> tuple[Tensor, Tensor]:
    """(outputs,) scale and mean; a layer without bias gets mean 0 and the values' root mean square as scale."""
    scale, mean = np.array(units.scales), np.array(units.means)
    if layer.bias is None:
        scale, mean = np.hypot(scale, mean), np.zeros_like(mean)
    device = layer.weight.device
    return tuple(torch.tensor(values, dtype=torch.float32, device=device) for values in (scale, mean))  # type: ignore[return-value]


def _attach(layer: nn.Linear, scale: Tensor, mean: Tensor) -> None:
    # Buffers move to the layer's device with it; they are not saved.
    layer.register_buffer(_SCALE, scale, persistent=False)
    layer.register_buffer(_MEAN, mean, persistent=False)
    setattr(layer, _HOOK, layer.register_forward_hook(_in_units))


def _in_units(layer: nn.Module, _inputs: Any, z: Tensor) -> Tensor:
    """(..., outputs): predictions in the task's units, in float32 or float64."""
    wide = z if z.dtype == torch.float64 else z.float()
    return wide * layer.get_buffer(_SCALE) + layer.get_buffer(_MEAN)
