"""Terms that compare one student block with one teacher block: one class per term, and the table of them.

A match says how a block is read on either side, how the readings are compared, and how much the comparison counts.
Which student block is matched with which teacher blocks is the layer map's business, so every match works with every
map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor
from typing_extensions import override

from schemas.core.terms import Attention, HiddenStates, Relation, SampleRelation, TokenRelation, WordRelation
from stages.data.batching.tokens import Batch
from stages.losses import (
    Pooling,
    Summed,
    attention_probability_loss,
    attention_score_loss,
    attention_scores,
    hidden_state_loss,
    pool_states,
    relation_loss,
    sample_angle_loss,
    token_angle_loss,
    token_pair_loss,
    word_angle_loss,
    word_pair_loss,
)
from stages.objective.terms import Counted, Needs, Outputs, Pair

Config = TypeVar("Config")


@dataclass(frozen=True)
class BlockMatch(ABC, Generic[Config]):
    """Comparison of one student block with the states of a teacher block."""

    config: Config
    pair: Pair
    layer: int
    """The student block, 0 the first."""
    counted: ClassVar[Counted] = "lengths"
    """As `Term.counted`."""

    @property
    def reads(self) -> frozenset[str]:
        """Those of `query`, `key` and `value` that are read; empty if hidden states are."""
        return frozenset()

    @property
    def couples_rows(self) -> bool:
        """True if a row's loss depends on the other rows of its forward pass."""
        return False

    def needs(self, layers: Iterable[int]) -> Needs:
        """Return what must be kept of a model to read `layers`."""
        return Needs(frozenset(layers), self.reads) if self.reads else Needs.after_blocks(layers)

    def read(self, outputs: Outputs, layer: int, batch: Batch) -> Tensor:
        """Return the states of block `layer`, (batch, sequence, width), or another tensor that `compare` takes."""
        # hidden[0] is the embedding output, so block i is at i + 1.
        return outputs.hidden[layer + 1]

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        """Return the distance of two readings; `shares` is the teacher's weight in each row, (batch,), or None."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Return the count that `compare` will have, before any forward pass."""


class AttentionMatch(BlockMatch[Attention]):
    """Attention scores or probabilities, head by head."""

    reads = frozenset({"query", "key"})

    @override
    def read(self, outputs: Outputs, layer: int, batch: Batch) -> Tensor:
        states = outputs.recording.attention[layer]
        return attention_scores(
            states.query,
            states.key,
            batch.attention_mask,
            scaling=states.scaling,
            bias_BASS=states.score_bias(),
            centred=self.config.loss == "mse_centred_scores",
        )

    @override
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        if (kind := _PROBABILITY_LOSSES.get(self.config.loss)) is not None:
            return attention_probability_loss(student, teacher, batch.attention_mask, kind=kind)
        return attention_score_loss(student, teacher, batch.attention_mask, zero_at_padding=True)

    @override
    def count(self, batch: Batch) -> int:
        num_heads = self.pair.student.num_attention_heads
        if self.config.loss in ("kl_probabilities", "cosine_probabilities"):
            return batch.num_tokens * num_heads
        return int(batch.attention_mask.sum(-1).square().sum()) * num_heads


_PROBABILITY_LOSSES: Mapping[str, Literal["mse", "kl", "cosine"]] = {
    "mse_probabilities": "mse",
    "kl_probabilities": "kl",
    "cosine_probabilities": "cosine",
}


def pooling_of(config: HiddenStates) -> Pooling:
    """Return the tokens of a row that a term of hidden states compares."""
    return "tokens" if config.tokens == "all" else config.tokens


class HiddenMatch(BlockMatch[HiddenStates]):
    """Projected hidden states of all tokens, of the first token, or their mean."""

    @override
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        pooling = pooling_of(self.config)
        # Pooled before the projection: mean and linear map commute, and this order is cheaper.
        states, mask = pool_states(student, batch.attention_mask, pooling=pooling)
        targets, _ = pool_states(teacher, batch.attention_mask, pooling=pooling)
        name, projections = f"hidden_{self.layer}", self.pair.projections
        return hidden_state_loss(
            projections.student(name, states),
            projections.teacher(name, targets),
            mask,
            kind=self.config.loss,
            row_weights_B=shares,
        )

    @override
    def count(self, batch: Batch) -> int:
        return batch.num_tokens if self.config.tokens == "all" else len(batch.input_ids)


class RelationMatch(BlockMatch[Relation]):
    """MiniLM's and PP-MiniLM's relations of queries, keys or values."""

    @property
    @override
    def reads(self) -> frozenset[str]:
        return frozenset({self.config.between})

    @property
    @override
    def couples_rows(self) -> bool:
        return self.config.across == "samples"

    @override
    def read(self, outputs: Outputs, layer: int, batch: Batch) -> Tensor:
        states: Tensor = getattr(outputs.recording.attention[layer], self.config.between)
        return states

    @override
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        mask, config = batch.attention_mask, self.config
        return relation_loss(student, teacher, mask, num_heads=config.num_heads, across=config.across)

    @override
    def count(self, batch: Batch) -> int:
        return batch.num_tokens * (self.config.num_heads or self.pair.student.num_attention_heads)


class WordRelationMatch(BlockMatch[WordRelation]):
    """CKD's word relation."""

    @override
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        if self.config.of == "pairs":
            return word_pair_loss(student, teacher, batch.attention_mask)
        return word_angle_loss(student, teacher, batch.attention_mask, window=self.config.window)

    @override
    def count(self, batch: Batch) -> int:
        if self.config.of == "pairs":
            return batch.num_tokens
        reach = self.config.window // 2
        neighbours = (
            min(position, reach) + min(length - 1 - position, reach)
            for length in batch.lengths()
            for position in range(length)
        )
        return sum(number * (number - 1) for number in neighbours)


class TokenRelationMatch(BlockMatch[TokenRelation]):
    """MGSKD's token relation."""

    @override
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        config, mask = self.config, batch.attention_mask
        if config.of == "pairs":
            return token_pair_loss(student, teacher, mask, num_heads=config.num_heads)
        return token_angle_loss(
            student,
            teacher,
            mask,
            num_heads=config.num_heads,
            num_anchors=config.num_anchors,
            num_neighbours=config.num_neighbours,
        )

    @override
    def count(self, batch: Batch) -> int:
        config = self.config
        if config.of == "pairs":
            return config.num_heads * sum(length**2 for length in batch.lengths())
        total = 0
        for length in batch.lengths():
            neighbours = min(config.num_neighbours, length - 1)
            total += min(config.num_anchors, length) * neighbours * (neighbours - 1)
        return total


class SampleRelationMatch(BlockMatch[SampleRelation]):
    """MGSKD's sample relation."""

    couples_rows = True
    counted = "rows"

    @override
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        return sample_angle_loss(student, teacher, batch.attention_mask, num_heads=self.config.num_heads)

    @override
    def count(self, batch: Batch) -> int:
        rows = len(batch.input_ids)
        return self.config.num_heads * rows * (rows - 1) * (rows - 2)


BLOCK_MATCHES: Mapping[type, type[BlockMatch[Any]]] = {
    Attention: AttentionMatch,
    HiddenStates: HiddenMatch,
    Relation: RelationMatch,
    WordRelation: WordRelationMatch,
    TokenRelation: TokenRelationMatch,
    SampleRelation: SampleRelationMatch,
}
"""The match of every block-level term, by the class of its config. A new term adds its loss, its config, its match."""
