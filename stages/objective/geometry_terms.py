"""Terms on the geometry of states: contrasts between rows, relations of words, tokens, layers and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor

from schemas.core.layer_map import Targets
from schemas.core.terms import Contrastive, LayerRelation, SampleRelation, TokenRelation, WordRelation
from stages.data.batching.tokens import Batch
from stages.losses import (
    Summed,
    angular_contrastive_loss,
    layer_angle_loss,
    layer_pair_loss,
    sample_angle_loss,
    token_angle_loss,
    token_pair_loss,
    word_angle_loss,
    word_pair_loss,
)
from stages.objective.terms import Needs, Outputs, Pair, Target, Term

Compare = Callable[[Tensor, Tensor, Batch, Tensor | None], Summed]
Count = Callable[[Batch], int]


def word_relation(config: WordRelation) -> tuple[Compare, Count]:
    """CKD's word relation at one block."""
    reach = config.window // 2

    def pairs(given: Tensor, wanted: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return word_pair_loss(given, wanted, batch.attention_mask)

    def triplets(given: Tensor, wanted: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return word_angle_loss(given, wanted, batch.attention_mask, window=config.window)

    def num_triplets(batch: Batch) -> int:
        around = [
            min(place, reach) + min(length - 1 - place, reach) for length in batch.lengths() for place in range(length)
        ]
        return sum(number * (number - 1) for number in around)

    if config.of == "pairs":
        return pairs, lambda batch: batch.num_tokens
    return triplets, num_triplets


def token_relation(config: TokenRelation) -> tuple[Compare, Count]:
    """MGSKD's token relation at one block."""

    def pairs(given: Tensor, wanted: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return token_pair_loss(given, wanted, batch.attention_mask, num_heads=config.num_heads)

    def triplets(given: Tensor, wanted: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return token_angle_loss(
            given,
            wanted,
            batch.attention_mask,
            num_heads=config.num_heads,
            num_anchors=config.num_anchors,
            num_neighbours=config.num_neighbours,
        )

    def num_pairs(batch: Batch) -> int:
        return config.num_heads * sum(length**2 for length in batch.lengths())

    def num_triplets(batch: Batch) -> int:
        total = 0
        for length in batch.lengths():
            neighbours = min(config.num_neighbours, length - 1)
            total += min(config.num_anchors, length) * neighbours * (neighbours - 1)
        return total

    return (pairs, num_pairs) if config.of == "pairs" else (triplets, num_triplets)


def sample_relation(config: SampleRelation) -> tuple[Compare, Count]:
    """MGSKD's sample relation at one block."""

    def triplets(given: Tensor, wanted: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return sample_angle_loss(given, wanted, batch.attention_mask, num_heads=config.num_heads)

    def num_triplets(batch: Batch) -> int:
        rows = len(batch.input_ids)
        return config.num_heads * rows * (rows - 1) * (rows - 2)

    return triplets, num_triplets


def layer_relation_term(config: LayerRelation, pair: Pair, targets: Targets) -> Term:
    """CKD's layer-transforming relation over all mapped blocks."""
    matched = _matched(targets)

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        given = torch.stack([student.hidden[layer + 1] for layer in matched])
        wanted = _wanted(target.outputs[pair.index].hidden, matched)
        loss = layer_pair_loss if config.of == "pairs" else layer_angle_loss
        return loss(given, wanted, batch.attention_mask)

    blocks = len(matched)
    each = blocks if config.of == "pairs" else blocks * (blocks - 1) * (blocks - 2)
    return Term(
        config.name,
        None,
        config.weight * pair.share,
        compute,
        lambda batch: batch.num_tokens * each,
        teacher=pair.label,
        of_student=_states_after(matched),
        of_teacher=_states_after(chain.from_iterable(matched.values())),
    )


def contrastive_term(config: Contrastive, pair: Pair, targets: Targets) -> Term:
    """LRC-BERT's contrast over all mapped blocks, with the rows of the whole step."""
    matched = _matched(targets)

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        pool = target.pools[pair.index]
        given = torch.stack(
            [pair.projections.student(f"hidden_{layer}", student.hidden[layer + 1]) for layer in matched]
        )
        means = _wanted(pool.hidden, matched)
        wanted = torch.stack(
            [pair.projections.teacher(f"hidden_{layer}", mean) for layer, mean in zip(matched, means, strict=True)]
        )
        return angular_contrastive_loss(given, wanted.detach(), batch.attention_mask, pool.mask, pool.own)

    return Term(
        config.name,
        None,
        config.weight * pair.share,
        compute,
        lambda batch: len(batch.input_ids),
        teacher=pair.label,
        of_student=_states_after(matched),
        of_teacher=_states_after(chain.from_iterable(matched.values())),
        needs_pool=True,
    )


def _matched(targets: Targets) -> dict[int, tuple[int, ...]]:
    return {layer: learns_from for layer, learns_from in enumerate(targets) if learns_from}


def _states_after(layers: Iterable[int]) -> Needs:
    return Needs(hidden=frozenset(layer + 1 for layer in layers))


def _wanted(hidden: Mapping[int, Tensor], matched: dict[int, tuple[int, ...]]) -> Tensor:
    """(blocks, batch, sequence, width): the mean of the teacher blocks of each mapped student block."""
    return torch.stack(
        [torch.stack([hidden[block + 1] for block in learns_from]).mean(0) for learns_from in matched.values()]
    )
