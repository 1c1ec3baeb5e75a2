"""Training with the rounding of 8-bit integers, so that a student answers alike before and after it is quantised.

Forward passes in training mode round weights and inputs of linear layers, and the word table, as ONNX Runtime's dynamic
quantisation does; the backward pass takes the rounding for the identity (the straight-through estimator, Jacob et al.
2018, arXiv 1712.05877, section 3, with ranges found in each pass instead of running means). Nothing is remembered
between steps, so that a resumed stage needs no further state. In eval mode the layers are exact.
"""

from __future__ import annotations

from torch import Tensor, nn

from stages.device.even_linear import EvenLinear
from stages.device.int8_linear import largest_weight, quantized

_SMALLEST_SCALE = 1e-12


def _through(exact: Tensor, rounded: Tensor) -> Tensor:
    """Return the rounded values with the gradient of the exact ones."""
    return exact + (rounded - exact).detach()


def rounded_weights(weight_OI: Tensor) -> Tensor:
    """Return weights rounded to integers, with a scale for each output and 0 at 0."""
    integers_OI, scale_O1 = quantized(weight_OI.detach(), largest_weight(weight_OI.device))
    return _through(weight_OI, integers_OI * scale_O1)


def rounded_inputs(inputs: Tensor) -> Tensor:
    """Return inputs rounded to 256 steps between the least and the largest value of the batch, 0 among them."""
    exact = inputs.detach().float()
    low, high = exact.amin().clamp(max=0), exact.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=_SMALLEST_SCALE)
    zero = (-low / scale).round()
    steps = ((exact / scale).round() + zero).clamp(0, 255) - zero
    return _through(inputs, (steps * scale).to(inputs.dtype))


class SimulatedLinear(EvenLinear):
    """A linear layer that rounds its weights and inputs while it is trained, where it reads all tokens of a text."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        # A layer that answers once for a text, such as a pooler, stays in float32 in a dynamic export too.
        if not self.training or input.ndim < 3:
            return super().forward(input)
        return self.product(rounded_inputs(input), rounded_weights(self.weight))


class SimulatedEmbedding(nn.Embedding):
    """A word table that rounds its rows while it is trained, with one scale for the table."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ids to rows."""
        rows = super().forward(input)
        if not self.training:
            return rows
        largest = largest_weight(rows.device)
        scale = self.weight.detach().abs().amax().clamp(min=_SMALLEST_SCALE) / largest
        return _through(rows, (rows.detach() / scale).round() * scale)


def simulate_int8(student: nn.Module) -> None:
    """Make a student's linear layers and word table round in training mode, in place; parameter names stay."""
    for layer in student.modules():
        if type(layer) in (nn.Linear, EvenLinear):
            layer.__class__ = SimulatedLinear
        elif type(layer) is nn.Embedding:
            layer.__class__ = SimulatedEmbedding
