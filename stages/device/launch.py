"""Number of processes that train a stage on this machine."""

from __future__ import annotations

from schemas.core.errors import ConfigError
from schemas.recipe.parts import Launch


def number_of_processes(launch: Launch) -> int:
    """Return the number of processes: for `auto`, that of the GPUs, and 1 without one.

    Raises:
        ConfigError: more processes than GPUs, or several on an accelerator of another kind.
    """
    if launch.processes == 1:
        return 1
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if launch.processes == "auto":
        return max(1, number)
    if number and launch.processes > number:
        raise ConfigError(
            f"execution.launch.processes: {launch.processes}, but this machine shows {number} "
            f"GPU{'s' * (number > 1)} to torch, one for each process; set it to {number} or auto, or check "
            "CUDA_VISIBLE_DEVICES"
        )
    if not number and torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        raise ConfigError(
            f"execution.launch.processes: {launch.processes}, but several processes train on NVIDIA GPUs or on a CPU, "
            f"and this machine trains on {kind}; set it to 1"
        )
    return launch.processes


def check_divided(launch: Launch) -> None:
    """Refuse to divide teachers among one process.

    Raises:
        ConfigError: one process trains.
    """
    if launch.teacher == "sharded" and number_of_all_processes(launch) == 1:
        raise ConfigError(
            "execution.launch.teacher: sharded, but one process trains, which holds all of a teacher; set "
            "execution.launch.processes to 2 or more, or leave teacher out"
        )


def number_of_all_processes(launch: Launch) -> int:
    """Return the number of processes of all machines, as far as each has as many as this one."""
    return number_of_processes(launch) * launch.machines
