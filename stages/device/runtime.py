"""Device, number format, memory and seeds of a process."""

from __future__ import annotations

import copy
import ctypes
import os
import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator

from schemas.core.errors import ConfigError
from stages.device.even_linear import even_linears
from stages.device.int8_linear import int8_linears

Precision = Literal["auto", "fp32", "bf16"]
Module = TypeVar("Module", bound=torch.nn.Module)


_UNLIMITED = ("", "DEFAULT", "ALL")
_WITH_BF16 = ("BF16", "FP16", "AMX", "AVX10")
"""Parts of the names of instruction sets with bf16 products, as in AVX512_CORE_BF16."""


def bf16_in_hardware(device: torch.device) -> bool:
    """Return whether the device has instructions for bf16 matrix products, and they may be used.

    Where `ONEDNN_MAX_CPU_ISA` forbids them, oneDNN computes bf16 products without them, many times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
        if limit not in _UNLIMITED and not any(name in limit for name in _WITH_BF16):
            return False
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


class Runtime:
    """Device and number format of a process."""

    def __init__(self, precision: Precision = "auto") -> None:
        """Take the device from accelerate; `auto` uses bf16 if the hardware supports it."""
        # accelerate's own autocast is fixed for the life of a process, but stages may differ.
        self.accelerator = Accelerator()
        self.device: torch.device = self.accelerator.device
        self.bf16 = precision == "bf16" or (precision == "auto" and bf16_in_hardware(self.device))
        if self.device.type == "cpu":
            keep_freed_memory()

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass in the run's number format."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.bf16
        )
        return context

    def trained(self, module: Module) -> Module:
        """Move the module to the device and set training mode."""
        return self.quick(module.to(self.device)).train()

    def frozen(self, model: Module, *, int8: bool = False, on_cpu: bool = False) -> Module:
        """Return a copy for inference: on the device, in eval mode, without gradients, in the run's number format.

        Buffers keep their format: rotary frequencies in bf16 would rotate position 512 by up to 13 degrees too far.

        Args:
            model: the model.
            int8: compute the encoder's linear layers in 8-bit integers.
            on_cpu: leave the copy on the CPU, from where it is divided.

        Raises:
            ConfigError: int8 on an accelerator.
        """
        number = torch.bfloat16 if self.bf16 else torch.float32
        reader = copy.deepcopy(model).to("cpu" if on_cpu else self.device)
        if int8:
            self.check_int8()
            int8_linears(reader)
        for parameter in reader.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(number)
        return self.quick(reader).eval().requires_grad_(False)

    def check_int8(self) -> None:
        """Refuse teachers in 8-bit integers on an accelerator.

        Raises:
            ConfigError: the device is not a CPU.
        """
        if self.device.type != "cpu":
            raise ConfigError(
                "training.teacher_precision is int8, which is for CPUs, and this machine trains on "
                f"{self.device.type}: leave it out; teachers then have the number format of training.precision"
            )

    def quick(self, module: Module) -> Module:
        """Give a CPU's linear layers their faster form, in place; return the module."""
        if self.device.type == "cpu":
            even_linears(module)
        return module


@cache
def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next step; False without glibc.

    By default glibc returns every large tensor to the system when it is freed and requests it again a moment later,
    with each page cleared on first touch: a fifth of a training step in a trial (docs/performance.md).
    `return_freed_memory` returns the memory at the end of a stage.
    """
    if (libc := _glibc()) is None:
        return False
    # malloc.h's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: blocks below 1 GiB come from the heap and stay there.
    return bool(libc.mallopt(-3, 1 << 30) and libc.mallopt(-1, (1 << 31) - 1))


def return_freed_memory() -> None:
    """Return memory kept by `keep_freed_memory` to the system."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error says that the device or the machine is out of memory."""
    # torch's CPU allocator has no exception type of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one optimizer step.

    Random draws of a step then depend on the seed and the step alone, so that an interrupted run has no generator state
    to restore.
    """
    number = (seed * 1_000_003 + step) % 2**64
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # without formatting the stack for each kind of accelerator, as `torch.manual_seed` does
        torch.default_generator.manual_seed(number)
