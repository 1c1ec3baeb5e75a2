"""Learned linear maps between the widths of student and teacher."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from schemas.recipe.objective import LatentObjective


class Projections(nn.Module):
    """Linear maps from the student's states to one teacher's width, or from both sides to a common width.

    One per matched state, or one shared by all. With equal widths they start as the identity, so that a student copied
    from its teacher starts matched, otherwise with torch's initialisation, unless the objective asks for another start
    (stages/objective/projection_start.py). They have a bias, as in TinyBERT's code.
    """

    def __init__(
        self, objective: LatentObjective, states: Collection[str], *, student_width: int, teacher_width: int
    ) -> None:
        """Create the maps.

        Args:
            objective: decides whether maps are shared, and their output width.
            states: names of the matched states, such as `embedding` and `hidden_2`.
            student_width: width of the student's hidden states.
            teacher_width: width of the teacher's hidden states.
        """
        super().__init__()
        self.objective = objective
        width = objective.common_width or teacher_width
        names = ["shared"] if objective.projection == "shared" and states else list(states)
        self.maps = nn.ModuleDict()
        self.target_maps = nn.ModuleDict()
        if objective.projection == "none":
            return
        for name in names:
            self.maps[name] = _linear(student_width, width)
        if objective.common_width is not None:
            for name in names:
                self.target_maps[name] = _linear(teacher_width, width)

    def student(self, name: str, states_BSH: Tensor) -> Tensor:
        """Map (batch, sequence, student width) to (batch, sequence, compared width)."""
        return self._mapped(self.maps, name, states_BSH)

    def teacher(self, name: str, states_BSH: Tensor) -> Tensor:
        """Map (batch, sequence, teacher width) to (batch, sequence, compared width)."""
        return self._mapped(self.target_maps, name, states_BSH)

    def _mapped(self, maps: nn.ModuleDict, name: str, states_BSH: Tensor) -> Tensor:
        if not maps:
            return states_BSH
        mapped: Tensor = maps["shared" if self.objective.projection == "shared" else name](states_BSH)
        return mapped


@torch.no_grad()
def select_channels(linear: nn.Linear, channels: Sequence[int]) -> None:
    """Make a map to the teacher's width place input i at output `channels[i]`, and 0 at all other outputs."""
    nn.init.zeros_(linear.weight)
    linear.weight[list(channels), range(linear.in_features)] = 1.0
    nn.init.zeros_(linear.bias)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    if inputs == outputs:
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear


def drawn_projections(
    objective: LatentObjective, states: Collection[str], *, student_width: int, teacher_width: int, seed: int
) -> Projections:
    """Return projections whose initialisation depends on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Projections(objective, states, student_width=student_width, teacher_width=teacher_width)
