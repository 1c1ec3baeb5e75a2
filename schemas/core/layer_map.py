"""Layer maps: the teacher blocks that each student block learns from. Blocks are counted from 0 on both sides."""

from __future__ import annotations

import random
from typing import Annotated, Literal, assert_never

from pydantic import Field

from schemas.core.base import Frozen

Layer = Annotated[int, Field(ge=0)]


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
    """One teacher block for each student block; null for student blocks that learn from none."""

    kind: Literal["explicit"] = "explicit"
    layers: tuple[Layer | None, ...] = Field(min_length=1)
    """Teacher blocks, counted from 0, in the order of the student's blocks."""


class LastMap(Frozen):
    """Only the student's last block learns, from one teacher block (MiniLM; Wang et al. 2020, section 3.1)."""

    kind: Literal["last"] = "last"
    teacher_layer: Layer | None = None
    """Teacher block, counted from 0; null for the last."""


class MeanMap(Frozen):
    """Student block m learns from the mean of teacher blocks n with g(m-1) < n ≤ g(m), g as in the uniform map."""

    kind: Literal["mean"] = "mean"


class RandomMap(Frozen):
    """Teacher blocks drawn without replacement and sorted (RAIL-KD redraws them in every epoch)."""

    kind: Literal["random"] = "random"
    redraw: Literal["epoch", "never"] = "epoch"
    """True if blocks are redrawn in every epoch."""
    include_last: bool = True
    """False excludes the last block of both sides, so that only intermediate blocks are matched (RAIL-KD)."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draws."""


class TransportMap(Frozen):
    """Every student block learns from every teacher block, weighted by optimal transport (BERT-EMD)."""

    kind: Literal["optimal_transport"] = "optimal_transport"


OneToOneMap = Annotated[UniformMap | TopMap | BottomMap | ExplicitMap, Field(discriminator="kind")]
LayerMap = Annotated[
    UniformMap | TopMap | BottomMap | ExplicitMap | LastMap | MeanMap | RandomMap | TransportMap,
    Field(discriminator="kind"),
]
Targets = tuple[tuple[int, ...], ...]
"""Teacher blocks of each student block: none, one, or several whose mean it learns."""


def layer_targets(layer_map: LayerMap, *, num_student_layers: int, num_teacher_layers: int, epoch: int = 0) -> Targets:
    """Return the teacher blocks of each student block.

    Args:
        layer_map: the map.
        num_student_layers: M.
        num_teacher_layers: N.
        epoch: number of the pass over the data, for maps that are redrawn.

    Raises:
        ValueError: the map does not fit both depths; the message says which number is wrong.
    """
    student, teacher = num_student_layers, num_teacher_layers
    if isinstance(layer_map, ExplicitMap):
        return _explicit(layer_map, student, teacher)
    if isinstance(layer_map, LastMap):
        return _last(layer_map, student, teacher)
    if isinstance(layer_map, TransportMap):
        return (tuple(range(teacher)),) * student
    if student > teacher:
        raise ValueError(
            f"the student has {student} layers and the teacher {teacher}; a {layer_map.kind} map needs a teacher at "
            "least as deep: lower student.shape.num_layers or list the layers with kind: explicit"
        )
    uniform = tuple((layer + 1) * teacher // student - 1 for layer in range(student))
    match layer_map:
        case UniformMap():
            return tuple((layer,) for layer in uniform)
        case TopMap():
            return tuple((layer,) for layer in range(teacher - student, teacher))
        case BottomMap():
            return tuple((layer,) for layer in range(student))
        case MeanMap():
            first = (0, *(layer + 1 for layer in uniform[:-1]))
            return tuple(tuple(range(start, end + 1)) for start, end in zip(first, uniform, strict=True))
        case RandomMap():
            return _random(layer_map, student, teacher, epoch)
        case _:
            assert_never(layer_map)


def _explicit(layer_map: ExplicitMap, student: int, teacher: int) -> Targets:
    if len(layer_map.layers) != student:
        raise ValueError(
            f"{student} student layers but {len(layer_map.layers)} teacher layers listed; list one per student layer"
        )
    if too_high := [layer for layer in layer_map.layers if layer is not None and layer >= teacher]:
        raise ValueError(_no_such_layer(too_high[0], teacher))
    return tuple(() if layer is None else (layer,) for layer in layer_map.layers)


def _last(layer_map: LastMap, student: int, teacher: int) -> Targets:
    layer = teacher - 1 if layer_map.teacher_layer is None else layer_map.teacher_layer
    if layer >= teacher:
        raise ValueError(_no_such_layer(layer, teacher))
    return (*((),) * (student - 1), (layer,))


def _no_such_layer(layer: int, teacher: int) -> str:
    return f"teacher layer {layer} does not exist; the teacher has {teacher} layers, numbered 0 to {teacher - 1}"


def _random(layer_map: RandomMap, student: int, teacher: int, epoch: int) -> Targets:
    draw = random.Random(f"{layer_map.seed}:{epoch if layer_map.redraw == 'epoch' else 0}")
    excluded = 0 if layer_map.include_last else 1
    layers = sorted(draw.sample(range(teacher - excluded), student - excluded))
    return (*((layer,) for layer in layers), *((),) * excluded)


def teacher_layers(layer_map: OneToOneMap, *, num_student_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """Return the teacher block that each student block is copied from.

    Raises:
        ValueError: the map does not fit both depths, or leaves a student block without a teacher block.
    """
    targets = layer_targets(layer_map, num_student_layers=num_student_layers, num_teacher_layers=num_teacher_layers)
    if () in targets:
        raise ValueError(
            f"student layer {targets.index(())} has no teacher layer; a start needs one for every student layer"
        )
    return tuple(layer for (layer,) in targets)
