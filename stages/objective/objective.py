"""An objective at work: named terms, their weights in this step, and the projections that they need.

A term is one loss at one place: `attention` at student block 2, `hidden` at block 0, `soft_label` at the head. Each is
reported unweighted under its own name; their weighted sum is what the loop minimises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from schemas.core.kinds import Classification, TaskKind
from schemas.core.layer_map import RandomMap
from schemas.recipe.objective import (
    LatentObjective,
    MaskedLanguageObjective,
    Objective,
)
from stages.data.batching.choice_groups import Rows
from stages.data.batching.tokens import Batch
from stages.losses import Summed, confidence_weights
from stages.models.projections import Projections, drawn_projections
from stages.models.sentence_encoder import Model
from stages.objective.head_losses import head_losses
from stages.objective.label_terms import hard_label_term, soft_label_terms
from stages.objective.latent_terms import latent_terms, matched_states
from stages.objective.masking import Masking
from stages.objective.terms import Needs, Outputs, Pair, Pool, Target, Term, run_model


@dataclass(frozen=True)
class Shares:
    """How several teachers are weighed against each other."""

    fixed: tuple[float, ...] = (1.0,)
    """One per teacher; they sum to 1."""
    by_confidence: bool = False
    """Whether each row weighs the teachers by how well they know its label (CA-MKD)."""


class ObjectiveTerms(nn.Module):
    """The terms of an objective for one student and its teachers."""

    def __init__(
        self,
        objective: Objective,
        *,
        student: Model,
        teachers: Sequence[Model] = (),
        seed: int,
        shares: Shares | None = None,
        projections: Mapping[str, Tensor] | None = None,
        problem: TaskKind = Classification(),  # noqa: B008  (frozen)
        class_groups: tuple[tuple[int, int], ...] | None = None,
        scales: tuple[float, ...] | None = None,
        masking: Masking | None = None,
    ) -> None:
        """Build the terms of `objective`.

        Args:
            objective: the config.
            student: the model that is trained.
            teachers: the models it learns from; none for hard labels alone.
            seed: draws projections that are not carried over.
            shares: of several teachers; equal by default.
            projections: tensors of an earlier stage's projections; each that fits is gone on with, and those that this
                objective has no use for are kept for later stages.
            problem: the kind of answer that the task asks for.
            class_groups: half-open ranges of outputs, one per task, where tasks share an output layer.
            scales: the deviation of each output's values in the training rows; None where none is a value.
            masking: masks words, for a masked-language objective.
        """
        super().__init__()
        assert (masking is None) == (not isinstance(objective, MaskedLanguageObjective))
        self.objective = objective
        self.shares = shares or Shares((1 / max(len(teachers), 1),) * len(teachers))
        self.masking = masking
        self.problem, self.class_groups, self.scales = problem, class_groups, scales
        self.student_config: PretrainedConfig = student.config
        self.teacher_configs = [teacher.config for teacher in teachers]
        self.carried = dict(projections or {})
        self.carried_over = False
        """Whether every projection is an earlier stage's."""
        self.misfits: tuple[str, ...] = ()
        """Projections that an earlier stage kept in another shape, so that they are drawn anew."""
        self.projections = nn.ModuleList()
        latent = objective.latent
        if latent is not None:
            self._make_projections(latent, seed)
        self.epoch = 0
        self.progress = 0.0
        self.terms = self._make_terms()
        self.redrawn = latent is not None and _is_redrawn(latent)
        latent_names = [term.name for term in latent.terms] if latent is not None else []
        self.initial_names = latent_names if latent is not None and latent.normalize == "first_step" else []
        if self.initial_names:
            unknown = torch.full((len(self.initial_names),), math.nan, dtype=torch.float64)
            self.register_buffer("initial", unknown)

    def _make_projections(self, latent: LatentObjective, seed: int) -> None:
        for index, teacher in enumerate(self.teacher_configs):
            self.projections.append(
                drawn_projections(
                    latent,
                    matched_states(latent, self.student_config, teacher),
                    student_width=self.student_config.hidden_size,
                    teacher_width=teacher.hidden_size,
                    seed=seed + index,
                )
            )
        self._carry_on()

    def _carry_on(self) -> None:
        """Give each projection that an earlier stage kept in the same shape that stage's values."""
        own = self._projection_state()
        maps: dict[str, dict[str, Tensor]] = {}
        for name, tensor in own.items():
            maps.setdefault(name.rpartition(".")[0], {})[name] = tensor
        fitting = {
            place
            for place, tensors in maps.items()
            if all(_shape_of(self.carried.get(name)) == tensor.shape for name, tensor in tensors.items())
        }
        with torch.no_grad():
            for place in fitting:
                for name, tensor in maps[place].items():
                    tensor.copy_(self.carried[name])
        self.carried_over = len(fitting) == len(maps)
        self.misfits = tuple(
            place
            for place, tensors in maps.items()
            if place not in fitting and not tensors.keys().isdisjoint(self.carried)
        )

    def _projection_state(self) -> dict[str, Tensor]:
        """Projections by the names they have in a checkpoint; the first teacher's without a number."""
        tensors: dict[str, Tensor] = {}
        for index, projections in enumerate(self.projections):
            prefix = f"teacher_{index}." if index else ""
            for name, tensor in projections.state_dict().items():
                tensors[prefix + name] = tensor
        return tensors

    def _make_terms(self) -> list[Term]:
        terms: list[Term] = []
        latent, soft = self.objective.latent, self.objective.soft_label
        several = len(self.teacher_configs) > 1
        for index, teacher in enumerate(self.teacher_configs if latent is not None else ()):
            assert latent is not None
            projections = self.projections[index]
            assert isinstance(projections, Projections)
            pair = Pair(self.student_config, teacher, index, several, self.shares.fixed[index], projections)
            terms += latent_terms(latent, pair, epoch=self.epoch)
        losses = head_losses(None if self.masking else self.problem, self.class_groups, self.scales)
        if soft is not None:
            terms += soft_label_terms(soft, self.shares.fixed, losses)
        if (hard := self.objective.hard_label) is not None:
            terms.append(hard_label_term(hard, losses))
        return [self._by_confidence(term) for term in terms]

    def _by_confidence(self, term: Term) -> Term:
        """Rows decide the shares of hidden states and answers; the fixed share is then taken back."""
        if not self.shares.by_confidence or term.teacher is None:
            return term
        if not term.name.startswith(("hidden", "embedding", "soft_label")):
            return term
        return replace(term, weight=term.weight / self.shares.fixed[term.teacher])

    def begin(self, *, epoch: int, progress: float) -> None:
        """Say where in the stage the next step is: which epoch, and the share of all steps that is behind it."""
        self.progress = progress
        if self.redrawn and epoch != self.epoch:
            self.epoch = epoch
            self.terms = self._make_terms()

    @property
    def student_needs(self) -> Needs:
        """What is read of the student."""
        return _together([term.of_student for term in self.terms])

    def teacher_needs(self, index: int) -> Needs:
        """What is read of one teacher."""
        needs = _together([term.of_teacher for term in self.terms if term.teacher in (None, index)])
        return needs | Needs(logits=True) if self.shares.by_confidence else needs

    @property
    def couples_rows(self) -> bool:
        """Whether a step must be one forward pass, because rows are compared with each other."""
        return any(term.couples_rows for term in self.terms)

    @property
    def changes_rows(self) -> bool:
        """Whether what is read of a teacher about a row differs from epoch to epoch."""
        return self.masking is not None or self.redrawn

    @property
    def needs_pool(self) -> bool:
        """Whether the teachers' states of the whole step must be known before any row is learnt."""
        return any(term.needs_pool for term in self.terms)

    def prepare(self, batch: Batch, rows: Rows, *, step: int) -> Batch:
        """The batch as the models are to see it: with masked words, for a masked-language objective."""
        return batch if self.masking is None else self.masking.mask(batch, rows, step=step)

    def read_teachers(self, teachers: Sequence[nn.Module], batch: Batch) -> Target | None:
        """What every teacher says about a batch, without gradient; None when nothing of them is read.

        The batch itself is the pool.
        """
        needs = [self.teacher_needs(index) for index in range(len(teachers))]
        if all(each == Needs() for each in needs):
            return None
        with torch.no_grad():
            outputs = tuple(run_model(teacher, batch, each) for teacher, each in zip(teachers, needs, strict=True))
        return self.target_of(outputs, batch)

    @torch.no_grad()
    def target_of(self, outputs: tuple[Outputs, ...], batch: Batch) -> Target:
        """What the teachers' outputs for a batch mean: with each one's share, and what rows are told apart from."""
        weights = None
        if self.shares.by_confidence:
            assert batch.labels is not None
            logits = [output.logits for output in outputs if output.logits is not None]
            weights = confidence_weights(torch.stack(logits), batch.labels)
        pools: tuple[Pool, ...] = ()
        if self.needs_pool:
            own = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
            mask = batch.attention_mask.bool()
            pools = tuple(Pool(output.hidden, mask, own) for output in outputs)
        return Target(outputs, weights, pools)

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each term counts in `batch`, by the term's key."""
        return {term.key: term.count(batch) for term in self.terms}

    def compute(self, student: Outputs, target: Target | None, batch: Batch) -> dict[str, Summed]:
        """Each term's sum and count in `batch`, by the term's key."""
        return {term.key: term.compute(student, target, batch) for term in self.terms}

    def weights(self) -> dict[str, float]:
        """What multiplies each term's mean in this step, by the term's key."""
        return {term.key: self._weight(term) for term in self.terms}

    def _weight(self, term: Term) -> float:
        latent = self.objective.latent
        weight = term.weight
        if self.initial_names and term.name in self.initial_names:
            initial = float(self.get_buffer("initial")[self.initial_names.index(term.name)])
            weight /= initial if initial > 0 and math.isfinite(initial) else 1.0
        if latent is not None and latent.unlock == "bottom_up" and term.layer is not None:
            depth = self.student_config.num_hidden_layers
            weight *= float(self.progress * depth >= term.layer)
        return weight

    @property
    def wants_initial(self) -> bool:
        """Whether the terms' values at step 0 are still to be noted."""
        return bool(self.initial_names) and bool(self.get_buffer("initial").isnan().any())

    def note_initial(self, means: Mapping[str, float]) -> None:
        """Take the terms' means at step 0, by key; they are kept in the training state."""
        for place, name in enumerate(self.initial_names):
            total = sum(means[term.key] for term in self.terms if term.name == name)
            self.get_buffer("initial")[place] = total

    def projection_tensors(self) -> dict[str, Tensor]:
        """Projections to keep with the student: those trained here, and those of earlier stages that were of no use."""
        own = self._projection_state()
        return self.carried | {name: tensor.detach().cpu() for name, tensor in own.items()}


def _shape_of(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _is_redrawn(latent: LatentObjective) -> bool:
    maps = [latent.map_of(term) for term in latent.terms]
    return any(isinstance(each, RandomMap) and each.redraw == "epoch" for each in maps)


def _together(needs: Sequence[Needs]) -> Needs:
    together = Needs()
    for each in needs:
        together = together | each
    return together
