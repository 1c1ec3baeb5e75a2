"""A term of an objective, the parts of a model it reads, and the forward pass that keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from schemas.core.terms import LatentTerm
from stages.data.batching.tokens import Batch
from stages.losses import Summed
from stages.models.attention_capture import Recording, record_attention
from stages.models.projections import Projections
from stages.models.read import head_answer


@dataclass(frozen=True)
class Needs:
    """The parts of a model's forward pass that are read."""

    attention: frozenset[int] = frozenset()
    """Blocks whose queries, keys or values are read."""
    states: frozenset[str] = frozenset()
    """Those of `query`, `key` and `value` that are read in those blocks."""
    hidden: frozenset[int] = frozenset()
    """Hidden states: 0 is the embedding output, i + 1 the output of block i."""
    logits: bool = False
    """True if the head's output is read."""

    @classmethod
    def after_blocks(cls, layers: Iterable[int]) -> Needs:
        """Return the need for the outputs of blocks `layers`."""
        return cls(hidden=frozenset(layer + 1 for layer in layers))

    def __or__(self, other: Needs) -> Needs:
        """Return the union of both needs."""
        return Needs(
            self.attention | other.attention,
            self.states | other.states,
            self.hidden | other.hidden,
            self.logits or other.logits,
        )


@dataclass(frozen=True)
class Outputs:
    """The parts of a forward pass that were kept."""

    hidden: Mapping[int, Tensor]
    """(batch, sequence, width) by number: 0 is the embedding output, i + 1 the output of block i."""
    recording: Recording
    logits: Tensor | None


def run_model(model: nn.Module, batch: Batch, needs: Needs) -> Outputs:
    """Run one forward pass and keep what `needs` names."""
    with record_attention(needs.attention, model) as recording:
        output = model(**batch.model_inputs(), output_hidden_states=bool(needs.hidden))
    hidden = {number: output.hidden_states[number] for number in sorted(needs.hidden)}
    return Outputs(hidden, recording, head_answer(output))


@dataclass(frozen=True)
class Pool:
    """One teacher's states of all rows of an optimizer step, for a contrastive term."""

    hidden: Mapping[int, Tensor]
    """(pool rows, sequence, width) by number, as in `Outputs.hidden`."""
    mask: Tensor
    """(pool rows, sequence): True for real tokens."""
    rows: Tensor
    """(batch,): the pool row of each row of the microbatch."""

    @classmethod
    def joined(cls, pools: Sequence[Pool]) -> Pool:
        """Join the pools of several microbatches, padded to the longest; `rows` stay those of the first."""
        length = max(pool.mask.shape[1] for pool in pools)

        def padded(tensor: Tensor) -> Tensor:
            missing = length - tensor.shape[1]
            return nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))

        return cls(
            {number: torch.cat([padded(pool.hidden[number]) for pool in pools]) for number in pools[0].hidden},
            torch.cat([padded(pool.mask) for pool in pools]),
            pools[0].rows,
        )


@dataclass(frozen=True)
class Target:
    """Everything the teachers computed for one microbatch."""

    outputs: tuple[Outputs, ...]
    """One per teacher."""
    row_weights: Tensor | None = None
    """(teachers, batch): each teacher's share in each row, weighted by confidence; None for fixed shares."""
    pools: tuple[Pool, ...] = ()
    """One per teacher if a term needs it."""

    def shares_of(self, teacher: int) -> Tensor | None:
        """Return the (batch,) shares of one teacher; None for fixed shares."""
        return None if self.row_weights is None else self.row_weights[teacher]


def with_whole_pools(targets: Sequence[Target]) -> list[Target]:
    """Replace the pools of a step's microbatches by those of the whole step."""
    pools = [Pool.joined(of_teacher) for of_teacher in zip(*(target.pools for target in targets), strict=True)]
    ends = accumulate((len(target.pools[0].rows) for target in targets), initial=0)
    return [
        replace(target, pools=tuple(replace(pool, rows=target.pools[0].rows + start) for pool in pools))
        for target, start in zip(targets, ends, strict=False)
    ]


Compute = Callable[[Outputs, Target | None, Batch], Summed]
Counted = Literal["lengths", "labels", "rows", "tokens"]
"""Rule by which the steps of an epoch are weighed against each other in a term.

`lengths` and `labels`: the counts of rows add up and follow from their lengths, or from lengths and labels, so that an
epoch's count is known before it begins and its gradient is that of the mean over everything that is compared. `rows`
and `tokens`: the count does not add up, because the rows of a step are compared with each other, or is drawn step by
step; each step's mean weighs as much as its rows, or its tokens.
"""


@dataclass(frozen=True)
class Term:
    """One loss at one layer, or over the whole model."""

    name: str
    """The compared quantity: `attention`, `hidden`, `value_relation`, `soft_label`, …"""
    layer: int | None
    """Student block, 0 the first; None for terms over the whole model."""
    weight: float
    """Multiplies the mean."""
    compute: Compute
    count: Callable[[Batch], int]
    """The count that `compute` will have, known before any forward pass."""
    teacher: int | None = None
    """The teacher's number if there are several."""
    of_student: Needs = Needs()
    of_teacher: Needs = Needs()
    couples_rows: bool = False
    """True if a row's loss depends on the other rows of its forward pass."""
    needs_pool: bool = False
    """True if the term reads the teacher's states of the whole step."""
    counted: Counted = "lengths"
    """Rule by which `count` weighs steps (stages/training/divisors.py)."""

    @property
    def key(self) -> str:
        """Name of the term's own curve."""
        teacher = "" if self.teacher is None else f"_teacher_{self.teacher}"
        layer = "" if self.layer is None else f"_layer_{self.layer}"
        return f"{self.name}_loss{teacher}{layer}"

    @property
    def curve(self) -> str:
        """Name of the curve that sums the term over teachers and blocks."""
        return f"{self.name}_loss"


@dataclass(frozen=True)
class Pair:
    """A student and one of its teachers."""

    student: PretrainedConfig
    teacher: PretrainedConfig
    index: int
    """The teacher's number."""
    several: bool
    """True if there are several teachers."""
    share: float
    """The teacher's fixed share."""
    projections: Projections

    def term(
        self,
        config: LatentTerm,
        compute: Compute,
        count: Callable[[Batch], int],
        *,
        of_student: Needs,
        of_teacher: Needs,
        layer: int | None = None,
        couples_rows: bool = False,
        needs_pool: bool = False,
        counted: Counted = "lengths",
    ) -> Term:
        """Return the term of `config` for this pair, weighted by the teacher's share."""
        return Term(
            config.name,
            layer,
            config.weight * self.share,
            compute,
            count,
            teacher=self.index if self.several else None,
            of_student=of_student,
            of_teacher=of_teacher,
            couples_rows=couples_rows,
            needs_pool=needs_pool,
            counted=counted,
        )
