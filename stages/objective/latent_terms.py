"""Builds the terms of a latent objective for one student and one teacher.

A layered term is a `_Match`: how it reads a block on either side and how it compares what it read. Which student block
is compared with which teacher blocks is the map's business, so every term works with every map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor
from transformers import PretrainedConfig

from schemas.core.layer_map import Targets, TransportMap, layer_targets
from schemas.core.terms import (
    Attention,
    Contrastive,
    EmbeddingStates,
    HiddenStates,
    LatentTerm,
    LayerRelation,
    Relation,
    SampleRelation,
    TokenRelation,
    WordRelation,
)
from schemas.recipe.objective import LatentObjective
from stages.data.batching.tokens import Batch
from stages.losses import (
    Summed,
    attention_probability_loss,
    attention_score_loss,
    attention_scores,
    hidden_state_loss,
    pool_states,
    relation_loss,
    transport_plan,
)
from stages.objective.geometry_terms import (
    contrastive_term,
    layer_relation_term,
    sample_relation,
    token_relation,
    word_relation,
)
from stages.objective.terms import Needs, Outputs, Pair, Target, Term

BlockTerm = Attention | HiddenStates | Relation | WordRelation | TokenRelation | SampleRelation
Read = Callable[[Outputs, int, Batch], Tensor]


@dataclass(frozen=True)
class Match:
    """How a layered term reads and compares one block of each side."""

    read: Read
    compare: Callable[[Tensor, Tensor, Batch, Tensor | None], Summed]
    """Student's, teacher's, the batch, and the teacher's share in each row."""
    count: Callable[[Batch], int]
    reads: frozenset[str] = frozenset()
    """Which of `query`, `key` and `value`; none where it reads hidden states."""
    couples_rows: bool = False

    def needs(self, layers: Iterable[int]) -> Needs:
        """What is read of a model at `layers`."""
        if self.reads:
            return Needs(frozenset(layers), self.reads)
        return Needs(hidden=frozenset(layer + 1 for layer in layers))


def matched_states(latent: LatentObjective, student: PretrainedConfig, teacher: PretrainedConfig) -> list[str]:
    """Names of the student states that are projected: `embedding`, `hidden_0` and so on."""
    states: set[int] = set()
    embedding = False
    for term in latent.terms:
        if isinstance(term, EmbeddingStates):
            embedding = True
        elif isinstance(term, HiddenStates | Contrastive):
            targets = _targets(latent, term, student, teacher, epoch=0)
            states |= {layer for layer, learns_from in enumerate(targets) if learns_from}
    return (["embedding"] if embedding else []) + [f"hidden_{layer}" for layer in sorted(states)]


def latent_terms(latent: LatentObjective, pair: Pair, *, epoch: int) -> list[Term]:
    """Every term of the objective, with the maps as `epoch` draws them."""
    terms: list[Term] = []
    for config in latent.terms:
        targets = _targets(latent, config, pair.student, pair.teacher, epoch=epoch)
        if isinstance(config, EmbeddingStates):
            terms.append(_embedding_term(config, pair))
        elif isinstance(config, Contrastive):
            terms.append(contrastive_term(config, pair, targets))
        elif isinstance(config, LayerRelation):
            terms.append(layer_relation_term(config, pair, targets))
        elif isinstance(latent.map_of(config), TransportMap):
            terms.append(_transport_term(config, pair))
        else:
            terms += [
                _block_term(config, pair, layer, learns_from)
                for layer, learns_from in enumerate(targets)
                if learns_from
            ]
    return terms


def _targets(
    latent: LatentObjective, term: LatentTerm, student: PretrainedConfig, teacher: PretrainedConfig, *, epoch: int
) -> Targets:
    return layer_targets(
        latent.map_of(term),
        num_student_layers=student.num_hidden_layers,
        num_teacher_layers=teacher.num_hidden_layers,
        epoch=epoch,
    )


def _block_term(config: BlockTerm, pair: Pair, layer: int, learns_from: tuple[int, ...]) -> Term:
    match = _match(config, pair, layer)

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        outputs = target.outputs[pair.index]
        wanted = [match.read(outputs, block, batch) for block in learns_from]
        mean = wanted[0] if len(wanted) == 1 else torch.stack(wanted).mean(0)
        shares = target.shares_of(pair.index)
        return match.compare(match.read(student, layer, batch), mean, batch, shares)

    return Term(
        config.name,
        layer,
        config.weight * pair.share,
        compute,
        match.count,
        teacher=pair.label,
        of_student=match.needs([layer]),
        of_teacher=match.needs(learns_from),
        couples_rows=match.couples_rows,
    )


def _transport_term(config: BlockTerm, pair: Pair) -> Term:
    """All pairs of blocks, weighted by the cheapest plan that moves equal weights (BERT-EMD, section 3.2)."""
    own = range(pair.student.num_hidden_layers)
    theirs = range(pair.teacher.num_hidden_layers)
    matches = [_match(config, pair, layer) for layer in own]

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        outputs, shares = target.outputs[pair.index], target.shares_of(pair.index)
        wanted = [matches[0].read(outputs, block, batch) for block in theirs]
        losses = []
        for layer, match in enumerate(matches):
            given = match.read(student, layer, batch)
            losses.append([match.compare(given, block, batch, shares) for block in wanted])
        total_MN = torch.stack([torch.stack([loss.total for loss in row]) for row in losses])
        count = losses[0][0].count
        cost_MN = total_MN.detach() / count.clamp(min=1)
        plan_MN = transport_plan(
            cost_MN, torch.full((len(own),), 1 / len(own)), torch.full((len(theirs),), 1 / len(theirs))
        )
        return Summed((plan_MN.to(total_MN) * total_MN).sum(), count)

    return Term(
        config.name,
        None,
        config.weight * pair.share,
        compute,
        matches[0].count,
        teacher=pair.label,
        of_student=matches[0].needs(own),
        of_teacher=matches[0].needs(theirs),
        couples_rows=True,
    )


def _match(config: BlockTerm, pair: Pair, layer: int) -> Match:
    match config:
        case Attention():
            return _attention(config, pair)
        case HiddenStates():
            return _hidden(config, pair, layer)
        case Relation():
            return _relation(config, pair)
        case WordRelation():
            return Match(_block, *word_relation(config))
        case TokenRelation():
            return Match(_block, *token_relation(config))
        case SampleRelation():
            compare, count = sample_relation(config)
            return Match(_block, compare, count, couples_rows=True)
        case _:
            assert_never(config)


def _block(outputs: Outputs, layer: int, _batch: Batch) -> Tensor:
    # transformers' hidden_states[0] is the embedding output, so block i stands at i + 1.
    return outputs.hidden[layer + 1]


def _attention(config: Attention, pair: Pair) -> Match:
    num_heads = pair.student.num_attention_heads

    def scores(outputs: Outputs, layer: int, batch: Batch) -> Tensor:
        noted = outputs.recording.attention[layer]
        return attention_scores(noted.query, noted.key, batch.attention_mask, scaling=noted.scaling)

    def of_scores(student: Tensor, teacher: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return attention_score_loss(student, teacher, batch.attention_mask, zero_at_padding=True)

    def of_probabilities(student: Tensor, teacher: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        assert config.loss != "mse_scores"
        return attention_probability_loss(student, teacher, batch.attention_mask, kind=_PROBABILITIES[config.loss])

    def count(batch: Batch) -> int:
        if config.loss in ("mse_scores", "mse_probabilities"):
            return int(batch.attention_mask.sum(-1).square().sum()) * num_heads
        return batch.num_tokens * num_heads

    compare = of_scores if config.loss == "mse_scores" else of_probabilities
    return Match(scores, compare, count, frozenset({"query", "key"}))


_PROBABILITIES: dict[str, Literal["mse", "kl", "cosine"]] = {
    "mse_probabilities": "mse",
    "kl_probabilities": "kl",
    "cosine_probabilities": "cosine",
}


def _hidden(config: HiddenStates, pair: Pair, layer: int) -> Match:
    name = f"hidden_{layer}"
    pooling: Literal["tokens", "first", "mean"] = "tokens" if config.tokens == "all" else config.tokens

    def compare(given: Tensor, wanted: Tensor, batch: Batch, shares: Tensor | None) -> Summed:
        # Pooled before they are projected: a mean and a linear map may change places, and this is the cheaper order.
        states, mask = pool_states(given, batch.attention_mask, pooling=pooling)
        targets, _ = pool_states(wanted, batch.attention_mask, pooling=pooling)
        return hidden_state_loss(
            pair.projections.student(name, states),
            pair.projections.teacher(name, targets),
            mask,
            kind=config.loss,
            row_weights_B=shares,
        )

    def count(batch: Batch) -> int:
        return batch.num_tokens if config.tokens == "all" else len(batch.input_ids)

    return Match(_block, compare, count)


def _relation(config: Relation, pair: Pair) -> Match:
    num_heads = config.num_heads or pair.student.num_attention_heads

    def read(outputs: Outputs, layer: int, _batch: Batch) -> Tensor:
        states: Tensor = getattr(outputs.recording.attention[layer], config.between)
        return states

    def compare(given: Tensor, wanted: Tensor, batch: Batch, _: Tensor | None) -> Summed:
        return relation_loss(given, wanted, batch.attention_mask, num_heads=config.num_heads, across=config.across)

    return Match(
        read,
        compare,
        lambda batch: batch.num_tokens * num_heads,
        frozenset({config.between}),
        couples_rows=config.across == "samples",
    )


def _embedding_term(config: EmbeddingStates, pair: Pair) -> Term:
    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        wanted = target.outputs[pair.index].hidden[0]
        return hidden_state_loss(
            pair.projections.student("embedding", student.hidden[0]),
            pair.projections.teacher("embedding", wanted),
            batch.attention_mask,
            kind=config.loss,
            row_weights_B=target.shares_of(pair.index),
        )

    return Term(
        config.name,
        None,
        config.weight * pair.share,
        compute,
        lambda batch: batch.num_tokens,
        teacher=pair.label,
        of_student=Needs(hidden=frozenset({0})),
        of_teacher=Needs(hidden=frozenset({0})),
    )
