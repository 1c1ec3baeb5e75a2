"""The terms of a latent objective for one student and one teacher."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from schemas.core.layer_map import Targets, TransportMap, layer_targets
from schemas.core.terms import Contrastive, EmbeddingStates, HiddenStates, LatentTerm
from schemas.recipe.objective import LatentObjective
from stages.data.batching.tokens import Batch
from stages.losses import Summed
from stages.objective.block_matches import BLOCK_MATCHES
from stages.objective.model_terms import MODEL_TERMS, transport_term
from stages.objective.terms import Outputs, Pair, Target, Term


def projected_states(latent: LatentObjective, student: PretrainedConfig, teacher: PretrainedConfig) -> list[str]:
    """Return the names of the student states that need a projection, such as `embedding` and `hidden_0`."""
    states: set[int] = set()
    embedding = False
    for term in latent.terms:
        if isinstance(term, EmbeddingStates):
            embedding = True
        elif isinstance(term, HiddenStates | Contrastive):
            targets = _targets(latent, term, student, teacher, epoch=0)
            states |= {layer for layer, blocks in enumerate(targets) if blocks}
    return (["embedding"] if embedding else []) + [f"hidden_{layer}" for layer in sorted(states)]


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
    )
