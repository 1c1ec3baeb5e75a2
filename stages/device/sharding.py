"""A teacher divided among the processes of a stage: each holds a part of every block, and all of one at a time.

torch's `fully_shard` (FSDP2) gathers a block when it is called, and drops what others hold when it returns. Three of
its habits decide what is done here:

- It changes the class of the module it is given, by which transformers finds the outputs to record. So the blocks and
  the word table are divided, never the model itself.
- Each of them is then a root, which torch keeps whole after its first call unless told otherwise.
- Each call is an exchange between all processes, so that all have to call the teacher equally often
  (`Teachers.keep_pace`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from schemas.core.errors import ConfigError


def parts_of(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a model that can be divided: its blocks, and its word table unless a head shares it.

    Raises:
        ConfigError: the model's blocks are not in one list.
    """
    config: Any = model.config
    depth = config.num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if len(lists) != 1:
        raise ConfigError(
            f"execution.launch.teacher: sharded, but a {config.model_type} model does not have its {depth} blocks in "
            "one list; set it to replicated"
        )
    table = model.get_input_embeddings()  # type: ignore[operator]
    owners = [name for name, value in model.named_parameters(remove_duplicate=False) if value is table.weight]
    return [*lists[0], *([table] if len(owners) == 1 else [])]


def divide(model: nn.Module, device: torch.device) -> nn.Module:
    """Divide a frozen model among the processes of the group, in place; return it on the device.

    Args:
        model: with the same weights in every process; on the CPU, so that no device has to hold all of it.
        device: where it runs.

    Raises:
        ConfigError: as `parts_of`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in parts_of(model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return model.to(device)
