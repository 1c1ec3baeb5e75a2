"""The objective of a stage: latent terms, soft labels, hard labels, masked words.

Every objective has `latent`, `soft_label` and `hard_label` (None where it has no such part), so that code asks the
objective itself and never its class.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from schemas.core.base import Frozen
from schemas.core.layer_map import LayerMap, UniformMap
from schemas.core.terms import Attention, EmbeddingStates, HiddenStates, LatentTerm, Weight


class SoftLabels(Frozen):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, section 2)."""

    weight: Weight = 1.0
    """Multiplies the term."""
    loss: Literal["kl", "mse"] = "kl"
    """The divergence, or the squared error of the logits (Ba & Caruana 2014, eq. 1)."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """T; the factor T² keeps the scale of the gradient. Not used by `mse`."""


class HardLabels(Frozen):
    """Cross entropy against the data's own labels."""

    weight: Weight = 1.0
    """Multiplies the term."""


class LatentObjective(Frozen):
    """Match the teacher's internal states."""

    trains_task_head: ClassVar[bool] = False
    soft_label: ClassVar[SoftLabels | None] = None
    hard_label: ClassVar[HardLabels | None] = None
    kind: Literal["latent"] = "latent"
    terms: tuple[LatentTerm, ...] = Field(default=(Attention(), HiddenStates(), EmbeddingStates()), min_length=1)
    """The terms, each at most once."""
    layer_map: LayerMap = UniformMap()
    """Teacher blocks that each student block learns from."""
    projection: Literal["per_layer", "shared", "none"] = "per_layer"
    """Learned projections to the teacher's width: per state (TinyBERT v2), one for all (v1), none (equal widths)."""
    projection_start: Literal["random", "channels", "least_squares"] = "random"
    """First values of projections that no earlier stage has trained. `random`: torch's, or the identity for equal
    widths. `channels`: the student's channels in the teacher it was extracted from, 1 where a channel is the same and 0
    elsewhere. `least_squares`: the best map between both sides' states on some training text."""
    common_width: int | None = Field(default=None, ge=1, le=65536)
    """Width to which both sides are projected (RAIL-KD); null projects the student's states to the teacher's width."""
    normalize: Literal["none", "first_step", "gradient_share"] = "none"
    """Makes the weights of terms of different scale comparable. `first_step` divides every term by its value at step 0.
    `gradient_share` divides it by the smoothed norm of its gradient, so that terms of equal weight have equal shares of
    the student's gradient, whose scale stays as configured (after GradNorm, Chen et al. 2018). Neither changes the
    weights of soft and hard labels."""
    unlock: Literal["all", "bottom_up"] = "all"
    """`bottom_up` adds a block after each equal share of the steps (internal-representation KD)."""

    @model_validator(mode="after")
    def _each_term_once(self) -> LatentObjective:
        names = [term.name for term in self.terms]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"terms: {', '.join(repeated)} is listed twice; list it once, with its total weight")
        return self

    @property
    def latent(self) -> LatentObjective:
        """The objective itself: it has no other part."""
        return self

    def map_of(self, term: LatentTerm) -> LayerMap:
        """Return the term's layer map, or the objective's if it has none."""
        return getattr(term, "layer_map", None) or self.layer_map


_WithLabels = TypeVar("_WithLabels", "TaskObjective", "MaskedLanguageObjective")


def _check_some_label(objective: _WithLabels) -> _WithLabels:
    if objective.soft_label is None and objective.hard_label is None:
        kind = objective.kind.replace("_", "-")
        raise ValueError(f"soft_label and hard_label are both null; a {kind} objective needs at least one of them")
    return objective


class TaskObjective(Frozen):
    """Match the teacher's answer and the data's label, with or without latent terms."""

    trains_task_head: ClassVar[bool] = True
    kind: Literal["task"] = "task"
    latent: LatentObjective | None = LatentObjective()
    """Latent terms besides the labels (ERNIE-Tiny); null for none (TinyBERT)."""
    soft_label: SoftLabels | None = SoftLabels()
    """The teacher's answer; null for none."""
    hard_label: HardLabels | None = HardLabels()
    """The data's label; null for none."""
    head: Literal["fresh", "teacher", "fitted"] = "fresh"
    """First values of the head: drawn by the seed, or the first fine-tuned teacher's (SimKD, arXiv 2203.14001).
    `teacher` copies its tensors for a student of the same family and width and fits the others by least squares on
    training text; `fitted` fits all."""

    _some_label = model_validator(mode="after")(_check_some_label)


class MaskedLanguageObjective(Frozen):
    """Predict masked words like teacher and text (DistilBERT); needs the teacher's masked-language head."""

    trains_task_head: ClassVar[bool] = False
    kind: Literal["masked_language"] = "masked_language"
    latent: LatentObjective | None = None
    """Latent terms besides the masked words; null for none."""
    soft_label: SoftLabels | None = SoftLabels()
    """The teacher's answer at masked words; null for none."""
    hard_label: HardLabels | None = HardLabels()
    """The masked words themselves; null for none."""
    mask_ratio: float = Field(default=0.15, gt=0, lt=1)
    """Share of words to predict: 8 of 10 become [MASK], 1 a random word, 1 stays (BERT)."""

    _some_label = model_validator(mode="after")(_check_some_label)


class LabelObjective(Frozen):
    """Hard labels alone: how a teacher is fine-tuned, and the baseline a distilled student is measured against."""

    trains_task_head: ClassVar[bool] = True
    latent: ClassVar[LatentObjective | None] = None
    soft_label: ClassVar[SoftLabels | None] = None
    kind: Literal["hard_label"] = "hard_label"
    hard_label: HardLabels = HardLabels()
    """The data's label."""


GeneralObjective = Annotated[LatentObjective | MaskedLanguageObjective, Field(discriminator="kind")]
Objective = Annotated[
    LatentObjective | TaskObjective | MaskedLanguageObjective | LabelObjective, Field(discriminator="kind")
]
