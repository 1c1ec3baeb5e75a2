"""An objective at work: its terms, their weights in the current step, and the projections they need.

A term is one loss at one place: `attention` at student block 2, `hidden` at block 0, `soft_label` at the head. Each is
reported unweighted under its own name; the training loop minimises their weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

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
from stages.kinds.base import labels_of
from stages.losses import Summed, confidence_weights
from stages.models.projections import Projections, drawn_projections
from stages.models.sentence_encoder import Model
from stages.objective.balance import GradientBalance
from stages.objective.head_losses import head_losses
from stages.objective.label_terms import hard_label_term, soft_label_terms
from stages.objective.latent_terms import latent_terms, projected_states
from stages.objective.masking import Masking
from stages.objective.terms import Needs, Outputs, Pair, Pool, Target, Term, run_model


@dataclass(frozen=True)
class Shares:
    """Weights of several teachers."""

    fixed: tuple[float, ...] = (1.0,)
    """One per teacher; they sum to 1."""
    by_confidence: bool = False
    """True if each row weights the teachers by how well they predict its label (CA-MKD)."""


class ObjectiveTerms(nn.Module):
    """The terms of an objective for one student and its teachers.

    Projections of an earlier stage continue if they fit; those that this objective does not use are kept for later
    stages.
    """

    carried_over: bool = False
    """True if all projections come from an earlier stage."""
    misfits: tuple[str, ...] = ()
    """Projections that an earlier stage kept in another shape; they are initialised afresh."""
    fresh: tuple[tuple[int, str, nn.Linear], ...] = ()
    """Projections of the student's states that no earlier stage has trained: the teacher's number, name, map."""

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
            teachers: its teachers; none for hard labels alone.
            seed: initialises projections that are not carried over.
            shares: weights of several teachers; equal by default.
            projections: tensors of an earlier stage's projections, by name.
            problem: kind of the task.
            class_groups: half-open ranges of outputs, one per task, for tasks that share an output layer.
            scales: standard deviation of each output's values in the training rows; None if no output is a value.
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
        self.projections = nn.ModuleList()
        if (latent := objective.latent) is not None:
            self._make_projections(latent, seed)
        self.epoch, self.progress = 0, 0.0
        self.terms = self._make_terms()
        self.redrawn = latent is not None and _is_redrawn(latent)
        self._make_normalization(latent)

    def _make_normalization(self, latent: LatentObjective | None) -> None:
        """Prepare the terms' gradient shares, or register their values at step 0; NaN until they are measured."""
        self.initial_names: list[str] = []
        self.balance: GradientBalance | None = None
        if latent is not None and latent.normalize == "gradient_share":
            self.balance = GradientBalance({term.name: term.weight for term in latent.terms})
        if latent is not None and latent.normalize == "first_step":
            self.initial_names = [term.name for term in latent.terms]
            self.register_buffer("initial", torch.full((len(self.initial_names),), math.nan, dtype=torch.float64))

    def _make_projections(self, latent: LatentObjective, seed: int) -> None:
        for index, teacher in enumerate(self.teacher_configs):
            self.projections.append(
                drawn_projections(
                    latent,
                    projected_states(latent, self.student_config, teacher),
                    student_width=self.student_config.hidden_size,
                    teacher_width=teacher.hidden_size,
                    seed=seed + index,
                )
            )
        self._load_carried()

    def _load_carried(self) -> None:
        """Load the carried values into every projection of the same shape."""
        maps: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self._projection_state().items():
            maps.setdefault(name.rpartition(".")[0], {})[name] = tensor
        fitting = {
            projection
            for projection, tensors in maps.items()
            if all(_shape_of(self.carried.get(name)) == tensor.shape for name, tensor in tensors.items())
        }
        with torch.no_grad():
            for projection in fitting:
                for name, tensor in maps[projection].items():
                    tensor.copy_(self.carried[name])
        self.carried_over = len(fitting) == len(maps)
        self.fresh = tuple(self._not_in(fitting))
        self.misfits = tuple(
            projection
            for projection, tensors in maps.items()
            if projection not in fitting and not tensors.keys().isdisjoint(self.carried)
        )

    def _not_in(self, fitting: Collection[str]) -> Iterator[tuple[int, str, nn.Linear]]:
        for index, projections in enumerate(self.projections):
            assert isinstance(projections, Projections)
            for name, linear in projections.maps.items():
                if f"{_prefix(index)}maps.{name}" not in fitting:
                    assert isinstance(linear, nn.Linear)
                    yield index, name, linear

    def _projection_state(self) -> dict[str, Tensor]:
        """Projections by their names in a checkpoint, which number every teacher but the first."""
        tensors: dict[str, Tensor] = {}
        for index, projections in enumerate(self.projections):
            for name, tensor in projections.state_dict().items():
                tensors[_prefix(index) + name] = tensor
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
        """Undo the fixed share of terms whose shares are decided row by row: hidden states and soft labels."""
        if not self.shares.by_confidence or term.teacher is None:
            return term
        if not term.name.startswith(("hidden", "embedding", "soft_label")):
            return term
        return replace(term, weight=term.weight / self.shares.fixed[term.teacher])

    def begin(self, *, epoch: int, progress: float) -> None:
        """Prepare for the next step.

        Args:
            epoch: its epoch, which decides randomly drawn layer maps.
            progress: share of the stage's steps already taken, which decides the blocks that are unlocked.
        """
        self.progress = progress
        if self.redrawn and epoch != self.epoch:
            self.epoch = epoch
            self.terms = self._make_terms()

    @property
    def student_needs(self) -> Needs:
        """The parts of the student's forward pass that are read."""
        return reduce(or_, (term.of_student for term in self.terms), Needs())

    def teacher_needs(self, index: int) -> Needs:
        """Return the parts of one teacher's forward pass that are read."""
        needs = reduce(or_, (term.of_teacher for term in self.terms if term.teacher in (None, index)), Needs())
        return needs | Needs(logits=True) if self.shares.by_confidence else needs

    @property
    def couples_rows(self) -> bool:
        """True if a step must be one forward pass, because a term compares rows with each other."""
        return any(term.couples_rows for term in self.terms)

    @property
    def changes_rows(self) -> bool:
        """True if a teacher's outputs for a row differ from epoch to epoch."""
        return self.masking is not None or self.redrawn

    @property
    def needs_pool(self) -> bool:
        """True if a term reads the teachers' states of the whole step."""
        return any(term.needs_pool for term in self.terms)

    def prepare(self, batch: Batch, rows: Rows, *, step: int) -> Batch:
        """Return the models' input: the batch with masked words for a masked-language objective, else unchanged."""
        return batch if self.masking is None else self.masking.mask(batch, rows, step=step)

    def read_teachers(self, teachers: Sequence[nn.Module], batch: Batch) -> Target | None:
        """Run every teacher on a batch without gradient; None if no term reads them. The batch itself is the pool."""
        outputs = self.teacher_outputs(teachers, batch)
        return None if outputs is None else self.target_of(outputs, batch)

    def teacher_outputs(self, teachers: Sequence[nn.Module], batch: Batch) -> tuple[Outputs, ...] | None:
        """Run every teacher on a batch without gradient; None if no term reads them."""
        needs = [self.teacher_needs(index) for index in range(len(teachers))]
        if not any(of_teacher != Needs() for of_teacher in needs):
            return None
        with torch.no_grad():
            return tuple(run_model(teacher, batch, read) for teacher, read in zip(teachers, needs, strict=True))

    @torch.no_grad()
    def target_of(self, outputs: tuple[Outputs, ...], batch: Batch) -> Target:
        """Return the target of a batch: the teachers' outputs, their shares in each row, and the pool if needed."""
        weights = None
        if self.shares.by_confidence:
            logits = [output.logits for output in outputs if output.logits is not None]
            weights = confidence_weights(torch.stack(logits), labels_of(batch))
        pools: tuple[Pool, ...] = ()
        if self.needs_pool:
            rows = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
            mask = batch.attention_mask.bool()
            pools = tuple(Pool(output.hidden, mask, rows) for output in outputs)
        return Target(outputs, weights, pools)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return each term's count in `batch`, by the term's key."""
        return {term.key: term.count(batch) for term in self.terms}

    def compute(self, student: Outputs, target: Target | None, batch: Batch) -> dict[str, Summed]:
        """Return each term's sum and count in `batch`, by the term's key."""
        return {term.key: term.compute(student, target, batch) for term in self.terms}

    def balanced_losses(self, student: Outputs, target: Target | None, batch: Batch) -> dict[str, Tensor]:
        """Return the means of the terms that are balanced, at weight 1 and summed over blocks and teachers, by name.

        Blocks that are still locked are included, so that unlocking a block changes no factor.
        """
        assert self.balance is not None
        losses: dict[str, Tensor] = {}
        for term in self.terms:
            if (weight := self.balance.weights.get(term.name)) is not None:
                loss = term.weight / weight * term.compute(student, target, batch).mean()
                losses[term.name] = losses[term.name] + loss if term.name in losses else loss
        return losses

    def factors(self) -> dict[str, float]:
        """Return the factors of `normalize` on the weights of the latent terms, by name; empty for `none`."""
        if self.balance is not None:
            return self.balance.factors()
        initial = self.get_buffer("initial").tolist() if self.initial_names else []
        return {
            name: 1 / value if value > 0 and math.isfinite(value) else 1.0
            for name, value in zip(self.initial_names, initial, strict=True)
        }

    def weights(self) -> dict[str, float]:
        """Return the weight of each term's mean in this step, by the term's key."""
        factors = self.factors()
        return {term.key: self._weight(term) * factors.get(term.name, 1.0) for term in self.terms}

    def _weight(self, term: Term) -> float:
        latent = self.objective.latent
        weight = term.weight
        if latent is not None and latent.unlock == "bottom_up" and term.layer is not None:
            depth = self.student_config.num_hidden_layers
            weight *= float(self.progress * depth >= term.layer)
        return weight

    @property
    def wants_initial(self) -> bool:
        """True if terms are divided by their value at step 0 and that value is not known yet."""
        return bool(self.initial_names) and bool(self.get_buffer("initial").isnan().any())

    def note_initial(self, means: Mapping[str, float]) -> None:
        """Keep the terms' values in the first step, by which they are divided; part of the training state.

        Args:
            means: each term's mean over the step, by the term's key.
        """
        for index, name in enumerate(self.initial_names):
            self.get_buffer("initial")[index] = sum(means[term.key] for term in self.terms if term.name == name)

    def projection_tensors(self) -> dict[str, Tensor]:
        """Return the projections to save: those trained here, and unused ones of earlier stages."""
        trained = self._projection_state()
        return self.carried | {name: tensor.detach().cpu() for name, tensor in trained.items()}


def _prefix(teacher: int) -> str:
    return f"teacher_{teacher}." if teacher else ""


def _shape_of(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _is_redrawn(latent: LatentObjective) -> bool:
    maps = (latent.map_of(term) for term in latent.terms)
    return any(isinstance(layer_map, RandomMap) and layer_map.redraw == "epoch" for layer_map in maps)
