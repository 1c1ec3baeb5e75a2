"""Linear layers in 8-bit integers, for teachers that run faster than they must be exact.

Weights have one scale for each output, inputs one for each token, found anew in each pass; sums are exact 32-bit
integers. This is what ZeroQuant (Yao et al. 2022, arXiv 2206.01861) calls token-wise quantisation of activations, with
one scale for each output's weights instead of one for each group.

Shapes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stages.device.even_linear import HEIGHT
from stages.device.onednn import padded_rows

_LARGEST = 127
# Without VNNI two products are added in 16 bits, which overflow if weights use all of their 8 bits.
_LARGEST_WITHOUT_VNNI = 63
_SMALLEST_SCALE = 1e-12


class Int8Linear(nn.Module):
    """Inference of a linear layer with 8-bit weights and inputs."""

    def __init__(self, linear: nn.Linear) -> None:
        """Round the layer's weights, (O, I), each output's to steps of its largest absolute value / 127."""
        super().__init__()
        weight_OI = linear.weight.detach().float()
        quantized_OI, scale_O1 = quantized(weight_OI, largest_weight(weight_OI.device))
        bias_O = weight_OI.new_zeros(len(weight_OI)) if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("weight_OI", quantized_OI)
        self.register_buffer("scale_O", scale_O1[:, 0])
        self.register_buffer("bias_O", bias_O)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., I) to (..., O), in the input's number format."""
        rows = input.shape[:-1].numel()
        quantized_NI, scale_N1 = quantized(input.reshape(rows, -1).float(), _LARGEST)
        sums_NO = torch._int_mm(padded_rows(quantized_NI, HEIGHT), self.get_buffer("weight_OI").t())[:rows]
        outputs_NO = torch.addcmul(
            self.get_buffer("bias_O"), sums_NO.float().mul_(scale_N1), self.get_buffer("scale_O")
        )
        return outputs_NO.to(input.dtype).view(*input.shape[:-1], -1)


def quantized(values: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Return each row's values in steps of its scale, as 8-bit integers, and the scales with one column."""
    scale = values.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST_SCALE).div_(largest)
    return values.div(scale).round_().to(torch.int8), scale


def largest_weight(device: torch.device) -> int:
    """Return the largest integer of a weight: 8 bits, or 7 on a processor without VNNI."""
    return _LARGEST_WITHOUT_VNNI if device.type == "cpu" and not torch.cpu._is_vnni_supported() else _LARGEST


def int8_linears(model: Any) -> None:
    """Replace the linear layers of a model's encoder in place; its pooler and its head stay as they are."""
    encoder = getattr(model, "base_model", model)
    for path, module in list(encoder.named_modules()):
        if type(module) is nn.Linear and "pooler" not in path:
            parent, _, name = path.rpartition(".")
            setattr(encoder.get_submodule(parent), name, Int8Linear(module))
