"""What the student is asked to match: latent terms, soft labels, hard labels, masked words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.core.base import Frozen
from schemas.core.layer_map import LayerMap, UniformMap
from schemas.core.terms import Attention, EmbeddingStates, HiddenStates, LatentTerm, Weight


class LatentObjective(Frozen):
    """Match what the teacher computes inside."""

    kind: Literal["latent"] = "latent"
    terms: tuple[LatentTerm, ...] = Field(default=(Attention(), HiddenStates(), EmbeddingStates()), min_length=1)
    """The terms, each at most once."""
    layer_map: LayerMap = UniformMap()
    """Which teacher blocks each student block learns from."""
    projection: Literal["per_layer", "shared", "none"] = "per_layer"
    """Learned maps to the teacher's width: one for each state (TinyBERT v2), one for all (v1), none (equal widths)."""
    common_width: int | None = Field(default=None, ge=1, le=65536)
    """Project both sides to this width instead (RAIL-KD); null projects the student's states to the teacher's width."""
    normalize: Literal["none", "first_step"] = "none"
    """`first_step` divides every term by its value at step 0, so that weights compare terms of unlike size."""
    unlock: Literal["all", "bottom_up"] = "all"
    """`bottom_up` lets one more block learn after each equal share of the steps (internal-representation KD)."""

    @model_validator(mode="after")
    def _each_term_once(self) -> LatentObjective:
        names = [term.name for term in self.terms]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"terms: {', '.join(repeated)} is listed twice; give it once with the weight it should have"
            )
        return self

    def map_of(self, term: LatentTerm) -> LayerMap:
        """The map that a term uses: its own, or the objective's."""
        return getattr(term, "layer_map", None) or self.layer_map


class SoftLabels(Frozen):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, section 2)."""

    weight: Weight = 1.0
    """Multiplies the term."""
    loss: Literal["kl", "mse"] = "kl"
    """The divergence, or the squared error of the logits (Ba & Caruana 2014, eq. 1)."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """T; the factor T² keeps the gradient's size. Not used by `mse`."""


class HardLabels(Frozen):
    """Cross entropy against the data's own labels."""

    weight: Weight = 1.0
    """Multiplies the term."""


class TaskObjective(Frozen):
    """Match the teacher's answer and the data's label, with or without the latent terms."""

    kind: Literal["task"] = "task"
    latent: LatentObjective | None = LatentObjective()
    """Latent terms that go on beside the labels (ERNIE-Tiny); null for none (TinyBERT)."""
    soft_label: SoftLabels | None = SoftLabels()
    """The teacher's answer; null for none."""
    hard_label: HardLabels | None = HardLabels()
    """The data's label; null for none."""

    @model_validator(mode="after")
    def _some_label(self) -> TaskObjective:
        if self.soft_label is None and self.hard_label is None:
            raise ValueError("soft_label and hard_label are both null; a task objective needs at least one of them")
        return self


class MaskedLanguageObjective(Frozen):
    """Predict masked words as the teacher does and as the text has them (DistilBERT); needs its masked-word head."""

    kind: Literal["masked_language"] = "masked_language"
    latent: LatentObjective | None = None
    """Latent terms beside the words; null for none."""
    soft_label: SoftLabels | None = SoftLabels()
    """The teacher's answer at masked words; null for none."""
    hard_label: HardLabels | None = HardLabels()
    """The words that were masked; null for none."""
    mask_ratio: float = Field(default=0.15, gt=0, lt=1)
    """Share of the words that are to be predicted: 8 of 10 become [MASK], 1 any other word, 1 stays (BERT)."""

    @model_validator(mode="after")
    def _some_label(self) -> MaskedLanguageObjective:
        if self.soft_label is None and self.hard_label is None:
            raise ValueError(
                "soft_label and hard_label are both null; a masked-language objective needs at least one of them"
            )
        return self


class LabelObjective(Frozen):
    """Hard labels alone: how a teacher is fine-tuned, and the baseline a distilled student is measured against."""

    kind: Literal["hard_label"] = "hard_label"
    hard_label: HardLabels = HardLabels()
    """The data's label."""


GeneralObjective = Annotated[LatentObjective | MaskedLanguageObjective, Field(discriminator="kind")]
Objective = Annotated[
    LatentObjective | TaskObjective | MaskedLanguageObjective | LabelObjective, Field(discriminator="kind")
]


def latent_of(objective: Objective) -> LatentObjective | None:
    """The latent part of any objective; null when it has none."""
    if isinstance(objective, LatentObjective):
        return objective
    return None if isinstance(objective, LabelObjective) else objective.latent


def soft_label_of(objective: Objective) -> SoftLabels | None:
    """The soft-label part of any objective; null when it has none."""
    if isinstance(objective, LatentObjective | LabelObjective):
        return None
    return objective.soft_label


def hard_label_of(objective: Objective) -> HardLabels | None:
    """The hard-label part of any objective; null when it has none."""
    return None if isinstance(objective, LatentObjective) else objective.hard_label
