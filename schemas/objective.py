"""What the student is asked to match: latent terms, soft labels, hard labels, and which layer learns from which.

`layer` is an index with 0 the first transformer block, on both sides; the embedding output is a term of its own.
"""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

from pydantic import Field, model_validator

from schemas.base import Frozen

Weight = Annotated[float, Field(gt=0, le=1e6)]


class UniformMap(Frozen):
    """Student block m of M (from 1) learns from teacher block floor(m·N/M) of N: TinyBERT's g(m) = m·N/M, any N ≥ M."""

    kind: Literal["uniform"] = "uniform"


class TopMap(Frozen):
    """Student blocks learn from the teacher's last blocks: g(m) = m + N - M."""

    kind: Literal["top"] = "top"


class BottomMap(Frozen):
    """Student blocks learn from the teacher's first blocks: g(m) = m."""

    kind: Literal["bottom"] = "bottom"


class ExplicitMap(Frozen):
    """One teacher block, counted from 0, for each student block."""

    kind: Literal["explicit"] = "explicit"
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Teacher blocks (0 the first), in the order of the student's blocks."""


LayerMap = Annotated[UniformMap | TopMap | BottomMap | ExplicitMap, Field(discriminator="kind")]


def teacher_layers(
    layer_map: LayerMap, *, num_student_layers: int, num_teacher_layers: int
) -> tuple[int, ...]:
    """The teacher block (0 the first) that each student block learns from.

    Raises:
        ValueError: the map does not fit both depths; the message says which number is wrong.
    """
    student, teacher = num_student_layers, num_teacher_layers
    if isinstance(layer_map, ExplicitMap):
        if len(layer_map.layers) != student:
            raise ValueError(
                f"{student} student layers but {len(layer_map.layers)} teacher layers listed; "
                "list one per student layer"
            )
        if too_high := [layer for layer in layer_map.layers if layer >= teacher]:
            raise ValueError(
                f"teacher layer {too_high[0]} does not exist; the teacher has {teacher} layers, "
                f"numbered 0 to {teacher - 1}"
            )
        return layer_map.layers
    if student > teacher:
        raise ValueError(
            f"the student has {student} layers and the teacher {teacher}; a {layer_map.kind} map needs a teacher at "
            "least as deep: lower student.shape.num_layers or list the layers with kind: explicit"
        )
    match layer_map:
        case UniformMap():
            return tuple((layer + 1) * teacher // student - 1 for layer in range(student))
        case TopMap():
            return tuple(range(teacher - student, teacher))
        case BottomMap():
            return tuple(range(student))
        case _:
            assert_never(layer_map)


class AttentionScores(Frozen):
    """Squared error of the scaled dot products before the softmax (TinyBERT, eq. 7); needs equal head counts."""

    kind: Literal["attention"] = "attention"
    weight: Weight = 1.0
    """Multiplies the term, summed over the mapped layers."""


class HiddenStates(Frozen):
    """Squared error of projected block outputs (TinyBERT, eq. 8)."""

    kind: Literal["hidden"] = "hidden"
    weight: Weight = 1.0
    """Multiplies the term, summed over the mapped layers."""


class EmbeddingStates(Frozen):
    """Squared error of the projected embedding output (TinyBERT, eq. 9)."""

    kind: Literal["embedding"] = "embedding"
    weight: Weight = 1.0
    """Multiplies the term."""


LatentTerm = Annotated[
    AttentionScores | HiddenStates | EmbeddingStates, Field(discriminator="kind")
]


class LatentObjective(Frozen):
    """Match what the teacher computes inside."""

    kind: Literal["latent"] = "latent"
    terms: tuple[LatentTerm, ...] = Field(
        default=(AttentionScores(), HiddenStates(), EmbeddingStates()), min_length=1
    )
    """The terms, each kind at most once."""
    layer_map: LayerMap = UniformMap()
    """Which teacher block each student block learns from."""
    projection: Literal["per_layer", "shared"] = "per_layer"
    """One learned projection to the teacher's width for each state (TinyBERT v2), or one for all (v1)."""

    @model_validator(mode="after")
    def _each_term_once(self) -> LatentObjective:
        kinds = [term.kind for term in self.terms]
        if repeated := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(
                f"terms: {', '.join(repeated)} is listed twice; give it once with the weight it should have"
            )
        return self


class SoftLabels(Frozen):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, section 2)."""

    weight: Weight = 1.0
    """Multiplies the term."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """T; the factor T² keeps the gradient's size."""


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
            raise ValueError(
                "soft_label and hard_label are both null; a task objective needs at least one of them"
            )
        return self


class LabelObjective(Frozen):
    """Hard labels alone: how a teacher is fine-tuned, and the baseline a distilled student is measured against."""

    kind: Literal["hard_label"] = "hard_label"
    hard_label: HardLabels = HardLabels()
    """The data's label."""


Objective = Annotated[LatentObjective | TaskObjective | LabelObjective, Field(discriminator="kind")]
