"""Several processes of torch.distributed, forked from a test."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.device.process_group import ProcessGroup

_SECONDS = 120
_MINUTES = 0.5
"""Time after which a process gives up that waits for another."""


def in_processes(
    number: int, work: Callable[[ProcessGroup], dict[str, Tensor]], folder: Path
) -> list[dict[str, Tensor]]:
    """Return what `work`, which joins them, returns in each of some processes; by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    children = [_fork(rank, number, work, folder) for rank in range(number)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * number
    return [load_file(folder / str(rank)) for rank in range(number)]


def _fork(rank: int, number: int, work: Callable[[ProcessGroup], dict[str, Tensor]], folder: Path) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        signal.alarm(_SECONDS)
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        world = ProcessGroup(rank, number, (folder / "group").absolute().as_uri(), minutes=_MINUTES)
        result = work(world)
        save_file({name: tensor.contiguous() for name, tensor in result.items()}, folder / str(rank))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
