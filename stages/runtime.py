"""Device, precision and seeds: what the hardware decides, asked in one place."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Literal

import torch
from accelerate import Accelerator

Precision = Literal["auto", "fp32", "bf16"]


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices with instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


class Runtime:
    """One process's device and number format."""

    def __init__(self, precision: Precision = "auto") -> None:
        """Ask accelerate for the device; `auto` takes bf16 where the hardware has it."""
        # Autocast is ours: accelerate's is fixed for the life of a process, and stages may differ.
        self.accelerator = Accelerator()
        self.device: torch.device = self.accelerator.device
        self.bf16 = precision == "bf16" or (precision == "auto" and bf16_in_hardware(self.device))

    def autocast(self) -> AbstractContextManager[None]:
        """The number format of a forward pass."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.bf16
        )
        return context

    def frozen(self, model: torch.nn.Module) -> torch.nn.Module:
        """A copy that is only read: on the device, in eval mode, without gradients, in the run's number format."""
        number = torch.bfloat16 if self.bf16 else torch.float32
        reader = copy.deepcopy(model).to(self.device, dtype=number)
        return reader.eval().requires_grad_(False)


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one optimizer step.

    Dropout of a step then depends on the seed and the step alone, not on the steps before it, so there is no generator
    state to lose when a run is interrupted.
    """
    torch.manual_seed(seed * 1_000_003 + step)
