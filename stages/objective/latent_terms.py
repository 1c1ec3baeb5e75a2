"""The terms of a latent objective for one student and one teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from schemas.core.layer_map import Targets, TransportMap, layer_targets
from schemas.core.terms import Contrastive, EmbeddingStates, HiddenStates, LatentTerm
from schemas.recipe.objective import LatentObjective
from stages.data.batching.tokens import Batch
from stages.losses import Pooling, Summed
from stages.objective.block_matches import BLOCK_MATCHES, pooling_of
from stages.objective.model_terms import MODEL_TERMS, transport_term
from stages.objective.terms import Outputs, Pair, Target, Term


@dataclass(frozen=True)
class ProjectedPair:
    """A student state that a term projects, and the teacher states whose mean it is compared with."""

    name: str
    """Name of the state, such as `embedding` and `hidden_0`."""
    student: int
    """Number of the student's hidden state: 0 is the embedding output, i + 1 the output of block i."""
    teacher: tuple[int, ...]
    """Numbers of the teacher's hidden states."""
    pooling: Pooling
    """Tokens of a row that are compared."""


def projected_pairs(
    latent: LatentObjective, student: PretrainedConfig, teacher: PretrainedConfig
) -> list[ProjectedPair]:
    """Return every pair of states that is compared through a projection, with layer maps as drawn for epoch 0."""
    pairs = []
    for term in latent.terms:
        if isinstance(term, EmbeddingStates):
            pairs.append(ProjectedPair("embedding", 0, (0,), "tokens"))
        elif isinstance(term, HiddenStates | Contrastive):
            pooling = pooling_of(term) if isinstance(term, HiddenStates) else "tokens"
            targets = _targets(latent, term, student, teacher, epoch=0)
            pairs += [
                ProjectedPair(f"hidden_{layer}", layer + 1, tuple(block + 1 for block in blocks), pooling)
                for layer, blocks in enumerate(targets)
                if blocks
            ]
    return pairs


def projected_states(latent: LatentObjective, student: PretrainedConfig, teacher: PretrainedConfig) -> list[str]:
    """Return the names of the student states that need a projection, in the order of the states."""
    pairs = sorted(projected_pairs(latent, student, teacher), key=lambda pair: pair.student)
    return list(dict.fromkeys(pair.name for pair in pairs))


def latent_terms(latent: LatentObjective, pair: Pair, *, epoch: int) -> list[Term]:
    """Return all terms of the objective, with layer maps as drawn for `epoch`."""
    terms: list[Term] = []
    for config in latent.terms:
        targets = _targets(latent, config, pair.student, pair.teacher, epoch=epoch)
        if (build := MODEL_TERMS.get(type(config))) is not None:
            terms.append(build(config, pair, targets))
        elif isinstance(latent.map_of(config), TransportMap):
            terms.append(transport_term(config, pair))
        else:
            terms += [_block_term(config, pair, layer, blocks) for layer, blocks in enumerate(targets) if blocks]
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


def _block_term(config: LatentTerm, pair: Pair, layer: int, teacher_layers: tuple[int, ...]) -> Term:
    """Term of one student block against the mean of its teacher blocks."""
    match = BLOCK_MATCHES[type(config)](config, pair, layer)

    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        outputs = target.outputs[pair.index]
        wanted = [match.read(outputs, block, batch) for block in teacher_layers]
        mean = wanted[0] if len(wanted) == 1 else torch.stack(wanted).mean(0)
        return match.compare(match.read(student, layer, batch), mean, batch, target.shares_of(pair.index))

    return pair.term(
        config,
        compute,
        match.count,
        layer=layer,
        of_student=match.needs([layer]),
        of_teacher=match.needs(teacher_layers),
        couples_rows=match.couples_rows,
        counted=match.counted,
    )
