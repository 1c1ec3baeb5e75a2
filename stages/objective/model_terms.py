"""Terms over a whole model: the embedding output, all mapped blocks together, or all pairs of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from schemas.core.layer_map import Targets
from schemas.core.terms import Contrastive, EmbeddingStates, LatentTerm, LayerRelation
from stages.data.batching.tokens import Batch
from stages.losses import (
    Summed,
    angular_contrastive_loss,
    hidden_state_loss,
    layer_angle_loss,
    layer_pair_loss,
    transport_plan,
)
from stages.objective.block_matches import BLOCK_MATCHES
from stages.objective.terms import Needs, Outputs, Pair, Target, Term


def embedding_term(config: EmbeddingStates, pair: Pair, _targets: Targets) -> Term:
    """Return the term of the projected embedding outputs."""

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        return hidden_state_loss(
            pair.projections.student("embedding", student.hidden[0]),
            pair.projections.teacher("embedding", target.outputs[pair.index].hidden[0]),
            batch.attention_mask,
            kind=config.loss,
            row_weights_B=target.shares_of(pair.index),
        )

    needs = Needs(hidden=frozenset({0}))
    return pair.term(config, compute, lambda batch: batch.num_tokens, of_student=needs, of_teacher=needs)


def layer_relation_term(config: LayerRelation, pair: Pair, targets: Targets) -> Term:
    """Return the term of CKD's layer-transforming relation over all mapped blocks."""
    matched = _matched(targets)

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        states = torch.stack([student.hidden[layer + 1] for layer in matched])
        loss = layer_pair_loss if config.of == "pairs" else layer_angle_loss
        return loss(states, _wanted(target.outputs[pair.index].hidden, matched), batch.attention_mask)

    blocks = len(matched)
    per_token = blocks if config.of == "pairs" else blocks * (blocks - 1) * (blocks - 2)
    return pair.term(
        config,
        compute,
        lambda batch: batch.num_tokens * per_token,
        of_student=Needs.after_blocks(matched),
        of_teacher=Needs.after_blocks(chain.from_iterable(matched.values())),
    )


def contrastive_term(config: Contrastive, pair: Pair, targets: Targets) -> Term:
    """Return the term of LRC-BERT's contrast over all mapped blocks, against the rows of the whole step."""
    matched = _matched(targets)

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        pool = target.pools[pair.index]
        states = torch.stack(
            [pair.projections.student(f"hidden_{layer}", student.hidden[layer + 1]) for layer in matched]
        )
        means = _wanted(pool.hidden, matched)
        wanted = torch.stack(
            [pair.projections.teacher(f"hidden_{layer}", mean) for layer, mean in zip(matched, means, strict=True)]
        )
        return angular_contrastive_loss(states, wanted.detach(), batch.attention_mask, pool.mask, pool.rows)

    return pair.term(
        config,
        compute,
        lambda batch: len(batch.input_ids),
        of_student=Needs.after_blocks(matched),
        of_teacher=Needs.after_blocks(chain.from_iterable(matched.values())),
        needs_pool=True,
    )


def transport_term(config: LatentTerm, pair: Pair) -> Term:
    """Return the term over all pairs of blocks, weighted by the cheapest plan between equal weights.

    BERT-EMD (Li et al. 2020), section 3.2.
    """
    student_layers = range(pair.student.num_hidden_layers)
    teacher_layers = range(pair.teacher.num_hidden_layers)
    matches = [BLOCK_MATCHES[type(config)](config, pair, layer) for layer in student_layers]

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        outputs, shares = target.outputs[pair.index], target.shares_of(pair.index)
        wanted = [matches[0].read(outputs, layer, batch) for layer in teacher_layers]
        losses = []
        for match in matches:
            states = match.read(student, match.layer, batch)
            losses.append([match.compare(states, block, batch, shares) for block in wanted])
        total_MN = torch.stack([torch.stack([loss.total for loss in row]) for row in losses])
        count = losses[0][0].count
        cost_MN = total_MN.detach() / count.clamp(min=1)
        weights_M, weights_N = (
            torch.full((len(layers),), 1 / len(layers)) for layers in (student_layers, teacher_layers)
        )
        plan_MN = transport_plan(cost_MN, weights_M, weights_N)
        return Summed((plan_MN.to(total_MN) * total_MN).sum(), count)

    return pair.term(
        config,
        compute,
        matches[0].count,
        of_student=matches[0].needs(student_layers),
        of_teacher=matches[0].needs(teacher_layers),
        couples_rows=True,
        counted=matches[0].counted,
    )


MODEL_TERMS: Mapping[type, Callable[[Any, Pair, Targets], Term]] = {
    EmbeddingStates: embedding_term,
    LayerRelation: layer_relation_term,
    Contrastive: contrastive_term,
}
"""Builder of every term that is not computed block by block, by the class of its config."""


def _matched(targets: Targets) -> dict[int, tuple[int, ...]]:
    return {layer: blocks for layer, blocks in enumerate(targets) if blocks}


def _wanted(hidden: Mapping[int, Tensor], matched: Mapping[int, Iterable[int]]) -> Tensor:
    """(blocks, batch, sequence, width): the mean of the teacher blocks of each mapped student block."""
    return torch.stack([torch.stack([hidden[block + 1] for block in blocks]).mean(0) for blocks in matched.values()])
