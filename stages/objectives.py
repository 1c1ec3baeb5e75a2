"""Turns an objective's config into named terms, and owns the projections that the terms need.

A term is one loss at one place: `attention` at student block 2, `hidden` at block 0, `soft_label` at the head. Each is
reported unweighted under its own name; their weighted sum is what the loop minimises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from schemas.objective import (
    AttentionScores,
    EmbeddingStates,
    HardLabels,
    HiddenStates,
    LabelObjective,
    LatentObjective,
    Objective,
    SoftLabels,
    TaskObjective,
    teacher_layers,
)
from stages.capture import Recording, record_attention
from stages.losses import (
    Summed,
    attention_score_loss,
    attention_scores,
    hard_label_loss,
    hidden_state_loss,
    soft_label_loss,
)
from stages.tokens import Batch


@dataclass(frozen=True)
class Needs:
    """What of a model's inside an objective reads."""

    attention: frozenset[int] = frozenset()
    hidden: bool = False
    logits: bool = False


@dataclass(frozen=True)
class Outputs:
    """What a model computed for one batch."""

    hidden: tuple[Tensor, ...]
    """(batch, sequence, width): the embedding output, then each block's; empty unless needed."""
    recording: Recording
    logits: Tensor | None


def run_model(model: nn.Module, batch: Batch, needs: Needs) -> Outputs:
    """One forward pass, keeping what `needs` names and nothing else."""
    with record_attention(needs.attention) as recording:
        output = model(**batch.model_inputs(), output_hidden_states=needs.hidden)
    hidden = tuple(output.hidden_states) if needs.hidden else ()
    return Outputs(hidden, recording, getattr(output, "logits", None))


@dataclass(frozen=True)
class Term:
    """One loss at one place."""

    name: str
    """`attention`, `hidden`, `embedding`, `soft_label`, `hard_label`."""
    layer: int | None
    """Student block (0 the first), where there are several."""
    weight: float
    compute: Callable[[Outputs, Outputs | None, Batch], Summed]
    count: Callable[[Batch], int]
    """What `compute` will count, known before any forward pass."""

    @property
    def key(self) -> str:
        """The name of its own curve."""
        return f"{self.name}_loss" if self.layer is None else f"{self.name}_loss_layer_{self.layer}"


class Projections(nn.Module):
    """Linear maps from the student's width to the teacher's, one per matched state or one for all.

    Where the widths agree they start as the identity, so that a student copied from its teacher starts matched;
    otherwise as torch draws a linear layer. TinyBERT's code has a bias, so have these.
    """

    def __init__(
        self, objective: LatentObjective, *, num_layers: int, student_width: int, teacher_width: int
    ) -> None:
        super().__init__()
        kinds = {term.kind for term in objective.terms}
        names = ["embedding"] if "embedding" in kinds else []
        names += [f"hidden_{layer}" for layer in range(num_layers)] if "hidden" in kinds else []
        self.shared = objective.projection == "shared"
        made = ["shared"] if self.shared and names else names
        self.maps = nn.ModuleDict({name: nn.Linear(student_width, teacher_width) for name in made})
        if student_width == teacher_width:
            for module in self.maps.values():
                assert isinstance(module, nn.Linear)
                nn.init.eye_(module.weight)
                nn.init.zeros_(module.bias)

    def project(self, name: str, states_BSH: Tensor) -> Tensor:
        """(batch, sequence, student width) to (batch, sequence, teacher width)."""
        projected: Tensor = self.maps["shared" if self.shared else name](states_BSH)
        return projected


class ObjectiveTerms(nn.Module):
    """An objective at work: its terms, its projections, and what it needs of both models."""

    def __init__(
        self,
        objective: Objective,
        *,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        seed: int,
        projections: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Build the terms of `objective` for two models.

        Args:
            objective: the config.
            student: the model that is trained.
            teacher: the model it learns from; None for hard labels alone.
            seed: draws projections that are not carried over.
            projections: tensors of an earlier stage's projections; those that still fit are gone on with.
        """
        super().__init__()
        latent, soft, hard = _parts(objective)
        self.carried = dict(projections or {})
        self.carried_over = False
        self.projections: Projections | None = None
        self.terms: list[Term] = []
        self.layer_map: tuple[int, ...] = ()
        if latent is not None:
            assert teacher is not None
            self.terms += self._latent_terms(latent, student.config, teacher.config, seed)
        if soft is not None:
            self.terms.append(_soft_label_term(soft))
        if hard is not None:
            self.terms.append(_hard_label_term(hard))
        kinds = {term.kind for term in latent.terms} if latent is not None else set()
        attention, states = "attention" in kinds, bool(kinds - {"attention"})
        layers = frozenset(range(student.config.num_hidden_layers))
        self.student_needs = Needs(layers if attention else frozenset(), states, bool(soft or hard))
        self.teacher_needs = Needs(
            frozenset(self.layer_map) if attention else frozenset(), states, soft is not None
        )

    def _latent_terms(
        self,
        latent: LatentObjective,
        student: PretrainedConfig,
        teacher: PretrainedConfig,
        seed: int,
    ) -> list[Term]:
        depth = student.num_hidden_layers
        self.layer_map = teacher_layers(
            latent.layer_map,
            num_student_layers=depth,
            num_teacher_layers=teacher.num_hidden_layers,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = Projections(
                latent,
                num_layers=depth,
                student_width=student.hidden_size,
                teacher_width=teacher.hidden_size,
            )
        self._carry_over(self.projections)
        return _latent_terms(latent, self.layer_map, student.num_attention_heads, self.projections)

    def _carry_over(self, projections: Projections) -> None:
        own = projections.state_dict()
        self.carried_over = all(
            name in self.carried and self.carried[name].shape == own[name].shape for name in own
        )
        if self.carried_over:
            projections.load_state_dict({name: self.carried[name] for name in own})

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each term counts in `batch`, by the term's key."""
        return {term.key: term.count(batch) for term in self.terms}

    def compute(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Summed]:
        """Each term's sum and count in `batch`, by the term's key."""
        return {term.key: term.compute(student, teacher, batch) for term in self.terms}

    def projection_tensors(self) -> dict[str, Tensor]:
        """Projections to keep with the student: trained here, or carried through untouched."""
        if self.projections is None:
            return dict(self.carried)
        return {
            name: tensor.detach().cpu() for name, tensor in self.projections.state_dict().items()
        }


def _parts(
    objective: Objective,
) -> tuple[LatentObjective | None, SoftLabels | None, HardLabels | None]:
    match objective:
        case LatentObjective():
            return objective, None, None
        case TaskObjective():
            return objective.latent, objective.soft_label, objective.hard_label
        case LabelObjective():
            return None, None, objective.hard_label
        case _:
            assert_never(objective)


def _latent_terms(
    latent: LatentObjective, layer_map: tuple[int, ...], num_heads: int, projections: Projections
) -> list[Term]:
    terms: list[Term] = []
    for config in latent.terms:
        match config:
            case AttentionScores():
                terms += [
                    _attention_term(config, num_heads, *pair) for pair in enumerate(layer_map)
                ]
            case HiddenStates():
                terms += [
                    _state_term("hidden", config.weight, student, teacher, projections)
                    for student, teacher in enumerate(layer_map)
                ]
            case EmbeddingStates():
                terms.append(_state_term("embedding", config.weight, None, None, projections))
            case _:
                assert_never(config)
    return terms


def _attention_term(
    config: AttentionScores, num_heads: int, student_layer: int, teacher_layer: int
) -> Term:
    def scores(outputs: Outputs, layer: int, batch: Batch) -> Tensor:
        attention = outputs.recording.attention[layer]
        return attention_scores(
            attention.query, attention.key, batch.attention_mask, scaling=attention.scaling
        )

    def compute(student: Outputs, teacher: Outputs | None, batch: Batch) -> Summed:
        assert teacher is not None
        return attention_score_loss(
            scores(student, student_layer, batch),
            scores(teacher, teacher_layer, batch),
            batch.attention_mask,
        )

    def count(batch: Batch) -> int:
        return int(batch.attention_mask.sum(-1).square().sum()) * num_heads

    return Term("attention", student_layer, config.weight, compute, count)


def _state_term(
    name: str,
    weight: float,
    student_layer: int | None,
    teacher_layer: int | None,
    projections: Projections,
) -> Term:
    # transformers' hidden_states[0] is the embedding output, so block i stands at i + 1.
    student_index = 0 if student_layer is None else student_layer + 1
    teacher_index = 0 if teacher_layer is None else teacher_layer + 1
    projection = name if student_layer is None else f"{name}_{student_layer}"

    def compute(student: Outputs, teacher: Outputs | None, batch: Batch) -> Summed:
        assert teacher is not None
        return hidden_state_loss(
            projections.project(projection, student.hidden[student_index]),
            teacher.hidden[teacher_index],
            batch.attention_mask,
        )

    return Term(name, student_layer, weight, compute, lambda batch: batch.num_tokens)


def _soft_label_term(config: SoftLabels) -> Term:
    def compute(student: Outputs, teacher: Outputs | None, batch: Batch) -> Summed:
        assert teacher is not None
        assert teacher.logits is not None
        assert student.logits is not None
        return soft_label_loss(student.logits, teacher.logits, temperature=config.temperature)

    return Term("soft_label", None, config.weight, compute, lambda batch: batch.input_ids.shape[0])


def _hard_label_term(config: HardLabels) -> Term:
    def compute(student: Outputs, teacher: Outputs | None, batch: Batch) -> Summed:
        assert student.logits is not None
        assert batch.labels is not None
        return hard_label_loss(student.logits, batch.labels)

    return Term("hard_label", None, config.weight, compute, lambda batch: batch.input_ids.shape[0])
