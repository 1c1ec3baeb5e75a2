"""Removal of a teacher's blocks beyond the last one that a term reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stages.data.batching.tokens import Batch
from stages.objective.terms import Needs, run_model


def needed_depth(needs: Needs) -> int:
    """Return the number of blocks that must run for all needed states, ignoring the head."""
    return max([0, *needs.hidden, *(layer + 1 for layer in needs.attention)])


@torch.no_grad()
def shorten(model: nn.Module, needs: Needs, sample: Batch) -> int:
    """Remove the blocks that are not read, in place, if that changes no bit of the states that are.

    Families with a step after the last block (ModernBERT's final norm) or shared blocks (ALBERT) would compute other
    states and stay whole, as does a model whose blocks are not in one list.

    Args:
        model: a model of which only `needs` will be read.
        needs: the parts that are read.
        sample: rows on which the states are compared.

    Returns:
        The number of blocks removed.
    """
    config: Any = model.config
    depth = needed_depth(needs)
    whole: int = config.num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == whole]
    if needs.logits or not 0 < depth < whole or len(lists) != 1:
        return 0
    (blocks,) = lists
    expected = run_model(model, sample, needs)
    removed = list(blocks[depth:])
    del blocks[depth:]
    config.num_hidden_layers = depth
    try:
        actual = run_model(model, sample, needs)
        if all(torch.equal(actual.hidden[number], states) for number, states in expected.hidden.items()) and all(
            torch.equal(getattr(actual.recording.attention[layer], name), getattr(states, name))
            for layer, states in expected.recording.attention.items()
            for name in needs.states
        ):
            return len(removed)
    except (IndexError, KeyError, RuntimeError, ValueError):
        pass  # the family's code relies on its original number of blocks
    blocks.extend(removed)
    config.num_hidden_layers = whole
    return 0
