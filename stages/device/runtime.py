"""Device, precision and seeds: what the hardware decides, asked in one place."""

from __future__ import annotations

import copy
import ctypes
import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal

import torch
from accelerate import Accelerator

from stages.device.even_linear import even_linears

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
        if self.device.type == "cpu":
            keep_freed_memory()

    def autocast(self) -> AbstractContextManager[None]:
        """The number format of a forward pass."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.bf16
        )
        return context

    def trained(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module itself, on the device and in training mode."""
        return self._quick(module.to(self.device)).train()

    def frozen(self, model: torch.nn.Module) -> torch.nn.Module:
        """A copy that is only read: on the device, in eval mode, without gradients, in the run's number format.

        Buffers keep theirs: a rotary frequency in bf16 turns position 512 by up to 13 degrees too far or too little.
        """
        number = torch.bfloat16 if self.bf16 else torch.float32
        reader = copy.deepcopy(model).to(self.device)
        for parameter in reader.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(number)
        return self._quick(reader).eval().requires_grad_(False)

    def _quick(self, module: torch.nn.Module) -> torch.nn.Module:
        # In float32 a CPU's matrix products are not compiled for each shape, and a GPU's are not either.
        if self.bf16 and self.device.type == "cpu":
            even_linears(module)
        return module


@cache
def keep_freed_memory() -> bool:
    """Let the process keep memory that it has freed, for its next step; False where that cannot be said (not glibc).

    glibc gives every large tensor back to the system as soon as it is freed and asks for it again a moment later, each
    page of it cleared on first touch: a fifth of a training step in a trial (docs/performance.md).
    `return_freed_memory` gives it back when a stage is over.
    """
    if (libc := _glibc()) is None:
        return False
    # malloc.h's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: what is smaller than 1 GiB comes from the heap, and stays there.
    return bool(libc.mallopt(-3, 1 << 30) and libc.mallopt(-1, (1 << 31) - 1))


def return_freed_memory() -> None:
    """Give memory that was kept back to the system."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no room for a tensor."""
    # torch's allocator for CPUs has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one optimizer step.

    Dropout of a step then depends on the seed and the step alone, not on the steps before it, so there is no generator
    state to lose when a run is interrupted.
    """
    torch.manual_seed(seed * 1_000_003 + step)
