"""A step whose rows are compared with each other, run by several processes.

Every process runs the models on its rows, receives the outputs of all others, and computes the loss of the whole step.
Only its own rows have a gradient there, so that the gradients of all processes add up to that of one forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.data.batching.tokens import Batch
from stages.objective.terms import Outputs
from stages.ports.world import World


@dataclass(frozen=True)
class Coupling:
    """The rows of one step, and those among them that this process runs."""

    world: World
    whole: Batch
    """All rows of the step, on the device."""

    @property
    def part(self) -> Batch:
        """The rows that this process runs, with the padding of the step; the first row if it has none."""
        rank, size = self.world.rank, self.world.size
        return self.whole.rows(slice(rank, None, size) if self._number else slice(1))

    @property
    def _number(self) -> int:
        """Number of rows of this process."""
        return len(range(self.world.rank, len(self.whole.input_ids), self.world.size))

    def gathered(self, outputs: Outputs) -> Outputs:
        """Return the outputs of all rows from those of `part`; rows of other processes have no gradient."""
        tensors = list(outputs.hidden.values())
        for states in outputs.recording.attention.values():
            tensors += [state for state in states[:3] if state.numel()]
        if outputs.logits is not None:
            tensors.append(outputs.logits)
        wholes = iter(self._wholes(tensors))
        hidden = {number: next(wholes) for number in outputs.hidden}
        attention = {}
        for layer, states in outputs.recording.attention.items():
            read = [next(wholes) if state.numel() else state for state in states[:3]]
            attention[layer] = states._replace(query=read[0], key=read[1], value=read[2])
        recording = replace(outputs.recording, attention=attention)
        return Outputs(hidden, recording, next(wholes) if outputs.logits is not None else None)

    def _wholes(self, parts: list[Tensor]) -> list[Tensor]:
        rows = torch.arange(self.world.rank, len(self.whole.input_ids), self.world.size)
        wholes = []
        for part in parts:
            whole = part.new_zeros(len(self.whole.input_ids), *part.shape[1:])
            whole[rows] = part.detach()[: len(rows)]
            wholes.append(whole)
        self.world.sum_tensors(wholes)
        return [
            whole.index_copy(0, rows.to(whole.device), part[: len(rows)])
            for whole, part in zip(wholes, parts, strict=True)
        ]
