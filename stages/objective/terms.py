"""What one term of an objective is, what it reads of a model, and how a model is run for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from stages.data.batching.tokens import Batch
from stages.losses import Summed
from stages.models.attention_capture import Recording, record_attention
from stages.models.projections import Projections
from stages.models.read import head_answer


@dataclass(frozen=True)
class Needs:
    """What of a model's inside is read."""

    attention: frozenset[int] = frozenset()
    """Blocks whose queries, keys or values are read."""
    states: frozenset[str] = frozenset()
    """Which of `query`, `key` and `value` are read of them."""
    hidden: frozenset[int] = frozenset()
    """States that are kept: 0 for the embedding output, block i's output at i + 1."""
    logits: bool = False
    """Whether the head's answer is read."""

    def __or__(self, other: Needs) -> Needs:
        """What either reads."""
        return Needs(
            self.attention | other.attention,
            self.states | other.states,
            self.hidden | other.hidden,
            self.logits or other.logits,
        )


@dataclass(frozen=True)
class Outputs:
    """What a model computed for one batch."""

    hidden: Mapping[int, Tensor]
    """(batch, sequence, width) by place: 0 the embedding output, i + 1 block i's; only what is needed."""
    recording: Recording
    logits: Tensor | None


def run_model(model: nn.Module, batch: Batch, needs: Needs) -> Outputs:
    """One forward pass, keeping what `needs` names and nothing else."""
    with record_attention(needs.attention) as recording:
        output = model(**batch.model_inputs(), output_hidden_states=bool(needs.hidden))
    hidden = {place: output.hidden_states[place] for place in sorted(needs.hidden)}
    return Outputs(hidden, recording, head_answer(output))


@dataclass(frozen=True)
class Pool:
    """One teacher's states of every row of an optimizer step: what a contrastive term tells a row apart from."""

    hidden: Mapping[int, Tensor]
    """(rows, sequence, width) by place, as in `Outputs.hidden`."""
    mask: Tensor
    """(rows, sequence): True for real tokens."""
    own: Tensor
    """(batch,): which pool row each of the microbatch's rows is."""

    @classmethod
    def joined(cls, pools: Sequence[Pool]) -> Pool:
        """The pools of several microbatches as one, padded to the longest; `own` stays the first one's."""
        length = max(pool.mask.shape[1] for pool in pools)

        def padded(tensor: Tensor) -> Tensor:
            missing = length - tensor.shape[1]
            return nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))

        return cls(
            {place: torch.cat([padded(pool.hidden[place]) for pool in pools]) for place in pools[0].hidden},
            torch.cat([padded(pool.mask) for pool in pools]),
            pools[0].own,
        )


@dataclass(frozen=True)
class Target:
    """What the teachers say about one microbatch."""

    outputs: tuple[Outputs, ...]
    """One per teacher."""
    row_weights: Tensor | None = None
    """(teachers, batch): each teacher's share in each row, where confidence decides; None for fixed shares."""
    pools: tuple[Pool, ...] = ()
    """One per teacher, where a term needs it."""

    def shares_of(self, teacher: int) -> Tensor | None:
        """(batch,) shares of one teacher; None for fixed shares."""
        return None if self.row_weights is None else self.row_weights[teacher]


@dataclass(frozen=True)
class Pair:
    """A student and one of its teachers."""

    student: PretrainedConfig
    teacher: PretrainedConfig
    index: int
    """Which teacher it is."""
    several: bool
    """Whether there are others."""
    share: float
    """The teacher's fixed share."""
    projections: Projections

    @property
    def label(self) -> int | None:
        """The teacher's number in the names of curves."""
        return self.index if self.several else None


Compute = Callable[[Outputs, Target | None, Batch], Summed]


@dataclass(frozen=True)
class Term:
    """One loss at one place."""

    name: str
    """What is compared: `attention`, `hidden`, `value_relation`, `soft_label`, …"""
    layer: int | None
    """Student block (0 the first), where there are several."""
    weight: float
    """Multiplies the mean."""
    compute: Compute
    count: Callable[[Batch], int]
    """What `compute` will count, known before any forward pass."""
    teacher: int | None = None
    """Which teacher, where there are several."""
    of_student: Needs = Needs()
    of_teacher: Needs = Needs()
    couples_rows: bool = False
    """Whether a row's loss depends on the other rows of its forward pass."""
    needs_pool: bool = False
    """Whether it reads the teacher's states of the whole step."""

    @property
    def key(self) -> str:
        """The name of its own curve."""
        teacher = "" if self.teacher is None else f"_teacher_{self.teacher}"
        layer = "" if self.layer is None else f"_layer_{self.layer}"
        return f"{self.name}_loss{teacher}{layer}"

    @property
    def curve(self) -> str:
        """The name of the curve that sums it over teachers and blocks."""
        return f"{self.name}_loss"
