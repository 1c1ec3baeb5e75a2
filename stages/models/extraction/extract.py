"""Extraction of a student with smaller depth, width, head count and inner size from the teacher's weights.

Extract-Then-Distill (arXiv 2104.11928): cut the teacher in width, select layers, then distil. ETD-Rand draws the parts
at random, ETD-Impt takes those with the highest importance. Only the abstract was available; the rest is this project's
reading: hidden channels are chosen once for the whole model, because the residual connections share them; heads and
neurons are chosen per block; a head with fewer channels than the teacher's keeps the same channels in queries and keys,
and the same in values and output projection. Nothing is rescaled.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from schemas.core.base import digest_of
from schemas.core.errors import ConfigError
from stages.models.encoders import attention_of
from stages.models.extraction.anatomy import (
    Anatomy,
    Location,
    Role,
    anatomy_of,
    embedding_width,
    head_width,
    inner_size,
)
from stages.models.extraction.importance import Importance

Parts = tuple[int, ...]
Choose = Callable[..., Parts]
"""(number to keep, number available, field of Importance, *index into that field) -> numbers of the kept parts."""


@dataclass(frozen=True)
class Extraction:
    """Parts of the teacher that make up the student; all but `layers` are ascending."""

    layers: Parts
    """[student block]: teacher block."""
    heads: tuple[Parts, ...]
    """[student block]: heads of that teacher block."""
    query_channels: tuple[tuple[Parts, ...], ...]
    """[student block][student head]: channels of the teacher head's queries and keys."""
    value_channels: tuple[tuple[Parts, ...], ...]
    """[student block][student head]: channels of the teacher head's values and context."""
    neurons: tuple[Parts, ...]
    """[student block]: neurons of the feed-forward part."""
    hidden_channels: Parts
    """Channels of the hidden states, the same in all blocks."""

    def summary(self) -> dict[str, Any]:
        """Return a short summary: layers, heads, hidden channels, counts, and a digest of all numbers."""
        return {
            "layers": list(self.layers),
            "heads": [list(heads) for heads in self.heads],
            "hidden_channels": list(self.hidden_channels),
            "num_hidden_channels": len(self.hidden_channels),
            "num_channels_per_head": len(self.value_channels[0][0]),
            "num_neurons_per_block": len(self.neurons[0]),
            "sha256": digest_of(asdict(self)),
        }


def choose_parts(
    teacher_config: PretrainedConfig,
    student_config: PretrainedConfig,
    layers: tuple[int, ...],
    *,
    importance: Importance | None,
    seed: int,
) -> Extraction:
    """Choose the teacher's parts for a student of `student_config`'s shape.

    Args:
        teacher_config: the teacher's config.
        student_config: decides how many parts are kept.
        layers: the teacher block of each student block.
        importance: parts with the highest scores are kept, ties go to the first; None draws parts uniformly.
        seed: seed of the draw; not used with `importance`.

    Raises:
        ConfigError: the family is not supported, or the student's shape does not fit into the teacher's.
    """
    _check_fit(teacher_config, student_config)
    assert len(layers) == student_config.num_hidden_layers
    assert all(0 <= layer < teacher_config.num_hidden_layers for layer in layers)
    choose = _draw_with(seed) if importance is None else _highest(importance)
    configs = (student_config, teacher_config)
    num_heads = tuple(config.num_attention_heads for config in configs)
    num_channels = tuple(head_width(config) for config in configs)
    num_neurons = tuple(inner_size(config) for config in configs)
    heads = tuple(choose(*num_heads, "heads", layer) for layer in layers)

    def channels(field: str) -> tuple[tuple[Parts, ...], ...]:
        return tuple(
            tuple(choose(*num_channels, field, layer, head) for head in of_block)
            for layer, of_block in zip(layers, heads, strict=True)
        )

    return Extraction(
        layers=layers,
        heads=heads,
        query_channels=channels("query_channels"),
        value_channels=channels("value_channels"),
        neurons=tuple(choose(*num_neurons, "neurons", layer) for layer in layers),
        hidden_channels=choose(*(config.hidden_size for config in configs), "hidden"),
    )


def extract_student(teacher: PreTrainedModel, config: PretrainedConfig, extraction: Extraction) -> PreTrainedModel:
    """Return a student made of the teacher's parts, in the teacher's precision, in eval mode.

    Args:
        teacher: the encoder as built by AutoModel.
        config: the student's config, from `student_config` with the same `layers`.
        extraction: from `choose_parts` for this teacher and this config.

    Raises:
        ConfigError: the family is not supported, or a block's weights differ in name from those of its teacher block.
    """
    anatomy = anatomy_of(teacher.config)
    if kinds := getattr(config, "layer_types", None):
        of_teacher = [teacher.config.layer_types[layer] for layer in extraction.layers]
        assert kinds == of_teacher, "a config made for other layers"
    with torch.random.fork_rng(devices=[]):  # all weights are replaced below
        student: PreTrainedModel = AutoModel.from_config(config, dtype=teacher.dtype, **attention_of(config))
    source = teacher.state_dict()
    tensors = {}
    for name, origin in _origins(anatomy, teacher, student, extraction.layers).items():
        location = anatomy.locate(name, source[origin].ndim)
        tensors[name] = _cut(source[origin], location, extraction, head_width(teacher.config))
    student.load_state_dict(tensors)
    return student.eval()


def _origins(
    anatomy: Anatomy, teacher: PreTrainedModel, student: PreTrainedModel, layers: tuple[int, ...]
) -> dict[str, str]:
    """The teacher's name for each weight of the student."""
    names, of_teacher = student.state_dict().keys(), teacher.state_dict().keys()
    origins = {name: name for name in names if not name.startswith(f"{anatomy.blocks}.")}
    for block, layer in enumerate(layers):
        into, out_of = f"{anatomy.blocks}.{block}.", f"{anatomy.blocks}.{layer}."
        parts = {name.removeprefix(into) for name in names if name.startswith(into)}
        wanted = {name.removeprefix(out_of) for name in of_teacher if name.startswith(out_of)}
        if unmatched := sorted(parts ^ wanted):
            raise ConfigError(
                f"student.start.layer_map: student block {block} is to be made of teacher block {layer}, but only one "
                f"of them has a {unmatched[0]}: in {teacher.config.model_type} models the first block is built "
                "differently; list the layers with kind: explicit, 0 first and nowhere else, or set "
                "student.start.kind to random"
            )
        origins |= {into + part: out_of + part for part in parts}
    assert set(origins.values()) <= of_teacher, "a teacher that AutoModel did not build"
    return origins


def _cut(tensor: Tensor, location: Location, extraction: Extraction, teacher_width: int) -> Tensor:
    """Keep the chosen parts along every dimension of a teacher's weight."""
    for axis, roles in enumerate(location.dimensions):
        parts = tensor.chunk(len(roles), dim=axis)
        kept = [
            part
            if role is Role.WHOLE
            else part.index_select(axis, _indices(role, location.layer, extraction, teacher_width).to(part.device))
            for role, part in zip(roles, parts, strict=True)
        ]
        tensor = torch.cat(kept, dim=axis)
    return tensor


def _indices(role: Role, block: int | None, extraction: Extraction, teacher_width: int) -> Tensor:
    """Indices along a dimension of `role` in the teacher; `block` counts the student's blocks."""
    if role is Role.HIDDEN:
        return torch.tensor(extraction.hidden_channels)
    assert block is not None, f"{role} outside the blocks"
    if role is Role.NEURON:
        return torch.tensor(extraction.neurons[block])
    channels = extraction.query_channels if role is Role.QUERY else extraction.value_channels
    return torch.tensor(
        [
            head * teacher_width + channel
            for head, of_head in zip(extraction.heads[block], channels[block], strict=True)
            for channel in of_head
        ]
    )


def _draw_with(seed: int) -> Choose:
    draw = random.Random(seed)

    def choose(num_taken: int, number: int, field: str, *_index: int) -> Parts:
        return tuple(sorted(draw.sample(range(number), num_taken)))

    return choose


def _highest(importance: Importance) -> Choose:
    def choose(num_taken: int, number: int, field: str, *index: int) -> Parts:
        scores = getattr(importance, field)[index]
        assert scores.shape == (number,), "importance of another teacher"
        by_score = torch.sort(scores, descending=True, stable=True).indices
        return tuple(sorted(by_score[:num_taken].tolist()))

    return choose


def _check_fit(teacher_config: PretrainedConfig, student_config: PretrainedConfig) -> None:
    """Refuse a student whose shape does not fit into the teacher's; names every size."""
    anatomy = anatomy_of(teacher_config)
    sizes = (
        ("num_layers", student_config.num_hidden_layers, teacher_config.num_hidden_layers),
        ("hidden_size", student_config.hidden_size, teacher_config.hidden_size),
        ("num_attention_heads", student_config.num_attention_heads, teacher_config.num_attention_heads),
        ("intermediate_size", inner_size(student_config), inner_size(teacher_config)),
    )
    problems = [
        f"student.shape.{name}: {size}, but the teacher has {limit} and extraction can only leave parts out; "
        f"give at most {limit}, or set student.start.kind to random"
        for name, size, limit in sizes
        if size > limit
    ]
    if problems := problems or _width_misfits(anatomy, teacher_config, student_config):
        raise ConfigError(problems)


def _width_misfits(anatomy: Anatomy, teacher_config: PretrainedConfig, student_config: PretrainedConfig) -> list[str]:
    width, heads = student_config.hidden_size, student_config.num_attention_heads
    per_head, limit = head_width(student_config), head_width(teacher_config)
    family = teacher_config.model_type
    problems = []
    if per_head > limit:
        problems.append(
            f"student.shape.num_attention_heads: {heads} heads of a hidden_size of {width} are {per_head} channels "
            f"wide, but the teacher's heads {limit}; raise num_attention_heads or lower hidden_size until "
            f"hidden_size / num_attention_heads is at most {limit}, or set student.start.kind to random"
        )
    if per_head < limit and anatomy.is_rotary:
        problems.append(
            f"student.shape.hidden_size: {heads} heads of a hidden_size of {width} are {per_head} channels wide, but "
            f"{family} rotates queries and keys at frequencies for heads of {limit} channels; give "
            f"{heads * limit}, which is {heads} x {limit}, or set student.start.kind to random"
        )
    if anatomy.shares_heads and heads != teacher_config.num_attention_heads:
        problems.append(
            f"student.shape.num_attention_heads: {heads}, but the position bias that all blocks of {family} models "
            f"share has a column for each of the teacher's {teacher_config.num_attention_heads} heads; give "
            f"{teacher_config.num_attention_heads}, or set student.start.kind to random"
        )
    embedding = embedding_width(teacher_config)
    if embedding != teacher_config.hidden_size and embedding == width:
        problems.append(
            f"student.shape.hidden_size: {width}, but the teacher's embeddings are {embedding} wide and projected to "
            f"{teacher_config.hidden_size}, and {family} has no projection between equal widths; "
            "give any other width, or set student.start.kind to random"
        )
    return problems
