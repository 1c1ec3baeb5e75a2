"""Builds fresh students: random weights or layers copied from the teacher; and counts parameters and operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from schemas.core.errors import ConfigError
from schemas.core.layer_map import teacher_layers
from schemas.recipe.recipe import Recipe
from schemas.recipe.student import (
    ExtractStart,
    ModelStart,
    RandomStart,
    StudentConfig,
    StudentShape,
    TeacherLayersStart,
)
from stages.models.encoders import attention_of, load_config, load_encoder, locate, probed, shape_of
from stages.models.families import adopt_vocabulary, check_padding, reshape


def with_known_sizes(recipe: Recipe) -> Recipe:
    """Return the recipe with the teacher's size wherever the student's is not given, read from its config alone.

    Raises:
        ConfigError: the teacher's sizes do not fit the given ones.
        DataError: the teacher is missing or damaged.
        ServiceError: a model hub is needed and cannot be reached.
    """
    if not recipe.student.missing_sizes:
        return recipe
    return recipe.with_sizes_of(shape_of(load_config(locate(recipe.pretrained))))


def student_config(
    teacher: PretrainedConfig,
    shape: StudentShape,
    model_type: str | None = None,
    *,
    layers: tuple[int, ...] | None = None,
) -> PretrainedConfig:
    """Return the config of a student that reads the teacher's tokens.

    Args:
        teacher: provides vocabulary and positions and, to a student of its family, all settings besides the shape.
        shape: the student's depth, width, heads and inner size.
        model_type: the student's family as named in transformers; None for the teacher's.
        layers: the teacher block that each student block is copied from; None if no blocks are copied.

    Raises:
        ConfigError: the encoder family does not exist, or its models cannot be built in this shape.
    """
    if model_type is None or model_type == teacher.model_type:
        key, source = "student.shape", teacher
    else:
        key, source = "student.model_type", adopt_vocabulary(model_type, teacher)
    config = reshape(source, shape, layers=layers)
    if (problem := probed(config).hidden_states) is not None:
        raise ConfigError(
            f"{key}: a {config.model_type} model of {shape.num_layers} layers, {shape.hidden_size} wide, with "
            f"{shape.num_attention_heads} heads and an inner size of {shape.intermediate_size} cannot be the student: "
            f"{problem}; change student.shape, or set student.model_type to another family, such as bert"
        )
    if source is not teacher:
        check_padding(config)
    return config


def fresh_student(student: StudentConfig, teacher_folder: Path) -> PreTrainedModel:
    """Return a student encoder before training, fp32, in eval mode.

    Args:
        student: shape, family and start, either random or from copied layers.
        teacher_folder: the pretrained teacher, for vocabulary and architecture, and for copied layers.

    Raises:
        ConfigError: the family does not support the shape, or layers cannot be copied into it.
    """
    teacher_config = load_config(teacher_folder)
    match student.start:
        case RandomStart():
            config = student_config(teacher_config, student.shape, student.model_type)
            return _drawn(config, student.start.seed).eval()
        case TeacherLayersStart():
            layers = _copied_layers(student, student.start, teacher_config)
            model = _drawn(student_config(teacher_config, student.shape, layers=layers), seed=0)
            copy_layers(load_encoder(teacher_folder), model, layers)
            return model.eval()
        case ExtractStart() | ModelStart():
            raise AssertionError("these starts need more than a config: stages.build builds them")


def check_copied_layers(student: StudentConfig, start: TeacherLayersStart, teacher: PretrainedConfig) -> None:
    """Refuse a start from copied layers that `fresh_student` would refuse, without loading weights.

    Raises:
        ConfigError: layers of the teacher cannot be copied into the student.
    """
    layers = _copied_layers(student, start, teacher)
    config = student_config(teacher, student.shape, layers=layers)
    with torch.device("meta"):
        source, target = (
            AutoModel.from_config(copy.deepcopy(side), **attention_of(side)) for side in (teacher, config)
        )
    _copied_tensors(source, target, layers)


def _copied_layers(student: StudentConfig, start: TeacherLayersStart, teacher: PretrainedConfig) -> tuple[int, ...]:
    if student.model_type not in (None, teacher.model_type):
        raise ConfigError(
            f"student.start: blocks of a {teacher.model_type} teacher cannot be copied into a "
            f"{student.model_type} student; set student.start.kind to random, or leave student.model_type out"
        )
    return teacher_layers(
        start.layer_map, num_student_layers=student.shape.num_layers, num_teacher_layers=teacher.num_hidden_layers
    )


def _drawn(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Return an encoder with random weights from `seed`, fp32 even if the teacher was saved in another precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32, **attention_of(config))
    return model


def copy_layers(teacher: PreTrainedModel, student: PreTrainedModel, layers: tuple[int, ...]) -> None:
    """Copy teacher block `layers[i]` into student block i, and everything outside the blocks.

    Raises:
        ConfigError: a tensor of the student has no counterpart of its shape in the teacher, or a copied block has a
            tensor without counterpart in the student.
    """
    student.load_state_dict(_copied_tensors(teacher, student, layers))


def _copied_tensors(teacher: PreTrainedModel, student: PreTrainedModel, layers: tuple[int, ...]) -> dict[str, Tensor]:
    """The teacher's tensor for each name in the student."""
    source = teacher.state_dict()
    origins = _origins(teacher, student, layers)
    for name, tensor in student.state_dict().items():
        if origins[name] not in source or source[origins[name]].shape != tensor.shape:
            raise ConfigError(
                f"student.start: {name} has no counterpart of its shape in the teacher; copying layers needs the "
                "teacher's width, heads and inner size: change student.shape, or set student.start.kind to random"
            )
    return {name: source[origin] for name, origin in origins.items()}


def _origins(teacher: PreTrainedModel, student: PreTrainedModel, layers: tuple[int, ...]) -> dict[str, str]:
    """The teacher's name for each tensor of the student."""
    names = list(student.state_dict())
    origins = {name: name for name in names}
    if getattr(teacher.config, "num_hidden_groups", None) == 1:
        return origins  # ALBERT: every layer has the same weights
    prefix = block_prefix(teacher)
    for block, layer in enumerate(layers):
        parts = _parts_of_block(names, f"{prefix}.{block}.")
        of_teacher = _parts_of_block(teacher.state_dict(), f"{prefix}.{layer}.")
        if parts != of_teacher:
            missing = of_teacher - parts
            which = f"but has no {min(missing)}" if missing else f"which has no {min(parts - of_teacher)}"
            raise ConfigError(
                f"student.start.layer_map: student block {block} is to be a copy of teacher block {layer}, {which}: "
                f"in {teacher.config.model_type} models the first block is built differently; list the layers with "
                "kind: explicit, beginning with 0 and with 0 nowhere else, or set student.start.kind to random"
            )
        origins |= {f"{prefix}.{block}.{part}": f"{prefix}.{layer}.{part}" for part in parts}
    return origins


def _parts_of_block(names: Iterable[str], prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def block_prefix(model: PreTrainedModel) -> str:
    """Return the name of the module list that holds the transformer blocks, such as `encoder.layer`."""
    depth = model.config.num_hidden_layers
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not names:
        raise ConfigError(
            f"student.start: {type(model).__name__} has no list of {depth} blocks to copy from; "
            "set student.start.kind to random"
        )
    return min(names, key=lambda name: name.count("."))


@contextmanager
def dropout(model: nn.Module, probability: float | None) -> Iterator[None]:
    """Inside the block, all dropout of the model has this probability; None keeps the config's probabilities."""
    undo: list[Callable[[], None]] = []
    for module in model.modules() if probability is not None else ():
        # Some families keep the attention's probability as a plain number.
        names = ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout", "dropout_prob")
        for name in names:
            if isinstance(before := getattr(module, name, None), int | float):
                undo.append(partial(setattr, module, name, before))
                setattr(module, name, probability)
    try:
        yield
    finally:
        for restore in undo:
            restore()


def count_parameters(config: PretrainedConfig) -> int:
    """Return the number of parameters of the encoder with its pooler, without a head."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def encoder_flops(shape: StudentShape, *, sequence_length: int = 128) -> int:
    """Return the floating-point operations of the blocks for one sequence, without norms and softmax.

    Multiply-adds per token and block: 4·d² for query, key, value and output, 2·d·f for the feed-forward part, 2·S·d for
    the two attention products; two operations each. Gives TinyBERT's 1.2 G and 22.5 G (table 1) at length 128.
    """
    width, inner = shape.hidden_size, shape.intermediate_size
    per_token = 4 * width**2 + 2 * width * inner + 2 * sequence_length * width
    return 2 * per_token * sequence_length * shape.num_layers
