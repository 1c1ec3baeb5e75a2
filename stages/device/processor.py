"""The processor of this machine, for figures that depend on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx_vnni", "avx512_vnni", "amx_tile")
# What keeps a processor from using all of its instructions.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def processor() -> str:
    """Return the processor's name, the number of threads, its instructions for matrices, and limits that are set."""
    threads = torch.get_num_threads()
    return _described(f"{threads} thread{'s' * (threads > 1)}")


def processor_kind() -> str:
    """Return the processor's name, its instructions for matrices, and limits that are set."""
    return _described()


def _described(*threads: str) -> str:
    name, flags = platform.processor() or platform.machine(), [torch.backends.cpu.get_cpu_capability()]
    if (facts := Path("/proc/cpuinfo")).is_file():
        named = dict(re.findall(r"^(model name|flags)\s*: (.*)$", facts.read_text(encoding="utf-8"), re.MULTILINE))
        name = named.get("model name", name)
        flags = [flag for flag in _FLAGS if flag in named.get("flags", "").split()] or flags
    limits = [f"{limit}={os.environ[limit]}" for limit in _LIMITS if limit in os.environ]
    return ", ".join([name, *threads, " ".join(flags), *limits])
