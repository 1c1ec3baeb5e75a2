"""The processes of a run on machines like this one, with what is assumed about their connections."""

from __future__ import annotations

import torch

from schemas.core.wording import shown_bytes
from schemas.recipe.parts import Launch
from stages.device.launch import number_of_processes
from stages.preflight.scale import Group, Link

LOOPBACK_BYTES = 1.8e9
"""Bytes per second that all processes of one machine together send each other by gloo, measured with 2 and 4 on two
cores (docs/scaling.md)."""
MESSAGE_SECONDS = 200e-6
"""Time of a message of theirs, measured there: 195 and 250 µs."""
GPUS = Link(bytes_per_second=10e9, seconds_per_message=10e-6)
"""GPUs of one machine by NCCL, assumed: half of what PCIe 4.0 carries, a fraction of NVLink."""
NETWORK = Link(bytes_per_second=25e9 / 8, seconds_per_message=50e-6)
"""Machines, assumed: Ethernet of 25 Gbit/s."""


def group_of(launch: Launch, rate: float) -> Group:
    """Return the processes of a run.

    Args:
        launch: their number.
        rate: floating-point operations per second of a step of one process that has this machine for itself.
    """
    each = number_of_processes(launch)
    has_gpus = torch.cuda.is_available()
    sums = NETWORK if launch.machines > 1 else loopback(each)
    gradients = GPUS if has_gpus and launch.machines == 1 else sums
    # Processes without GPUs share the cores.
    return Group(each * launch.machines, rate if has_gpus else rate / each, gradients, sums)


def loopback(processes: int) -> Link:
    """Return the connection of two of several processes of one machine, which copy with the cores that they share."""
    return Link(LOOPBACK_BYTES / processes, MESSAGE_SECONDS)


def described(launch: Launch, group: Group, gradient_bytes: float) -> str:
    """Describe what the times of a group rest on."""
    each = group.processes // launch.machines
    work = "each with a GPU of its own" if torch.cuda.is_available() else "which share the cores of their machine"
    if launch.machines == 1:
        link = "assumed: 10 GB/s between GPUs" if torch.cuda.is_available() else "measured on one machine"
    else:
        link = "assumed: 25 Gbit/s between machines, which are like this one"
    sharded = ", without gathering the sharded teacher in each pass" if launch.teacher == "sharded" else ""
    number = f"{each} on each of {launch.machines} machines" if launch.machines > 1 else f"{each} processes"
    if launch.machines > 1:
        work = work if each > 1 else "each with its machine for itself"
    return (
        f"times are for {number}, {work}; a step waits {1000 * group.exchange_seconds(gradient_bytes):.0f} ms for "
        f"{shown_bytes(gradient_bytes)} of gradient ({link}; docs/scaling.md){sharded}"
    )
