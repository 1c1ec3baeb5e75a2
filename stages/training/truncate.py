"""A teacher runs no further than the last block that a term reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stages.data.batching.tokens import Batch
from stages.objective.terms import Needs, run_model


def needed_depth(needs: Needs) -> int:
    """How many blocks have to be run for everything that is read, the head's answers apart."""
    return max([0, *needs.hidden, *(layer + 1 for layer in needs.attention)])


@torch.no_grad()
def shorten(model: nn.Module, needs: Needs, sample: Batch) -> int:
    """Take away the blocks that nobody reads, in place, where that changes no bit of what is read.

    A family that does something after its last block (ModernBERT's final norm) or shares blocks (ALBERT) would answer
    otherwise; it stays whole, as does a model whose blocks are not one list.

    Args:
        model: of which nothing but `needs` will be read from now on.
        needs: what is read.
        sample: rows on which both are compared.

    Returns:
        How many blocks were taken away.
    """
    config: Any = model.config
    depth = needed_depth(needs)
    whole: int = config.num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == whole]
    if needs.logits or not 0 < depth < whole or len(lists) != 1:
        return 0
    (blocks,) = lists
    expected = run_model(model, sample, needs)
    taken = list(blocks[depth:])
    del blocks[depth:]
    config.num_hidden_layers = depth
    try:
        found = run_model(model, sample, needs)
        if all(torch.equal(found.hidden[place], states) for place, states in expected.hidden.items()) and all(
            torch.equal(getattr(found.recording.attention[layer], name), getattr(noted, name))
            for layer, noted in expected.recording.attention.items()
            for name in needs.states
        ):
            return len(taken)
    except (IndexError, KeyError, RuntimeError, ValueError):
        pass  # its code counts on the blocks that it was made with
    blocks.extend(taken)
    config.num_hidden_layers = whole
    return 0
