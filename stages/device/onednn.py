"""Products of float32 matrices by oneDNN instead of torch's default library, MKL.

On a CPU torch multiplies bf16 matrices with oneDNN, but float32 ones with MKL, which uses AVX-512 on Intel's processors
only. The operator below ships with torch: it is what `torch.compile` calls. docs/performance.md has the rates of both.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _product() -> Any:
    """Return oneDNN's operator; None where torch has none, or on processors it was not measured on."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_PRODUCT = _product()


def multiplies(states: Tensor, weight: Tensor) -> bool:
    """Return whether `OneDnnLinear` computes this product: float32 on a CPU, outside of autocast."""
    return (
        _PRODUCT is not None
        and states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


class OneDnnLinear(torch.autograd.Function):
    """`torch.nn.functional.linear` with oneDNN's products in forward and backward pass.

    The rows are padded with zeros to a multiple of `height`, so that few shapes need a kernel.
    """

    @staticmethod
    def forward(ctx: Any, states_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, height: int) -> Tensor:
        """Return (N, O)."""
        ctx.height = height
        # Without the padding, which would be another copy of every activation until the backward pass.
        ctx.save_for_backward(states_NI, weight_OI)
        return _times(padded_rows(states_NI, height), weight_OI, bias_O)[: len(states_NI)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments of `forward`."""
        states_NI, weight_OI = ctx.saved_tensors
        of_states, of_weight, of_bias, _ = ctx.needs_input_grad
        padded = padded_rows(gradient_NO, ctx.height)
        return (
            _times(padded, weight_OI.t())[: len(gradient_NO)] if of_states else None,
            _weight_gradient(padded_rows(states_NI, ctx.height), padded) if of_weight else None,
            gradient_NO.sum(0) if of_bias else None,
            None,
        )


def _weight_gradient(states_NI: Tensor, gradient_NO: Tensor) -> Tensor:
    """Return (O, I). The product is faster with fewer rows than columns."""
    if gradient_NO.shape[1] > states_NI.shape[1]:
        return _times(states_NI.t(), gradient_NO.t()).t()
    return _times(gradient_NO.t(), states_NI.t())


def padded_rows(rows_NX: Tensor, height: int) -> Tensor:
    """Return the rows, followed by zeros up to a multiple of `height`."""
    missing = -len(rows_NX) % height
    return torch.cat([rows_NX, rows_NX.new_zeros(missing, rows_NX.shape[1])]) if missing else rows_NX


def _times(left_NI: Tensor, right_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return `left @ right.T + bias`, (N, O)."""
    output: Tensor = _PRODUCT(left_NI, right_OI, bias_O, "none", [], "")
    return output
