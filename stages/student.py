"""Builds the model that is trained: a fresh student, one that goes on from a checkpoint, or the teacher itself."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import assert_never

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from schemas.errors import ConfigError
from schemas.objective import teacher_layers
from schemas.student import RandomStart, StudentConfig, StudentShape, TeacherLayersStart
from stages.encoders import attention_of, load_config, load_encoder, name_classes


def student_config(teacher: PretrainedConfig, shape: StudentShape) -> PretrainedConfig:
    """The teacher's config with the student's sizes; vocabulary, positions and activation stay the teacher's."""
    config = copy.deepcopy(teacher)
    config.num_hidden_layers = shape.num_layers
    config.hidden_size = shape.hidden_size
    config.num_attention_heads = shape.num_attention_heads
    for name in ("intermediate_size", "hidden_dim"):  # DistilBERT says hidden_dim
        if hasattr(config, name):
            setattr(config, name, shape.intermediate_size)
    config.architectures = None
    return config


def fresh_student(student: StudentConfig, teacher_folder: Path) -> PreTrainedModel:
    """A student encoder at its start, fp32, in eval mode.

    Args:
        student: shape and start.
        teacher_folder: the pretrained teacher, for the architecture and for copied layers.
    """
    teacher_config = load_config(teacher_folder)
    config = student_config(teacher_config, student.shape)
    seed = student.start.seed if isinstance(student.start, RandomStart) else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModel.from_config(config, **attention_of(config))
    match student.start:
        case RandomStart():
            pass
        case TeacherLayersStart():
            copied = teacher_layers(
                student.start.layer_map,
                num_student_layers=config.num_hidden_layers,
                num_teacher_layers=teacher_config.num_hidden_layers,
            )
            copy_layers(load_encoder(teacher_folder), model, copied)
        case _:
            assert_never(student.start)
    return model.eval()


def copy_layers(
    teacher: PreTrainedModel, student: PreTrainedModel, layers: tuple[int, ...]
) -> None:
    """Make student block i a copy of teacher block `layers[i]`, and everything outside the blocks the teacher's.

    Raises:
        ConfigError: a tensor of the student has no counterpart of its shape in the teacher.
    """
    prefix = block_prefix(teacher)
    source = teacher.state_dict()
    pattern = re.compile(rf"^{re.escape(prefix)}\.(\d+)\.")
    taken = {
        name: pattern.sub(lambda match: f"{prefix}.{layers[int(match[1])]}.", name)
        for name in student.state_dict()
    }
    unmatched = [
        name
        for name, tensor in student.state_dict().items()
        if taken[name] not in source or source[taken[name]].shape != tensor.shape
    ]
    if unmatched:
        raise ConfigError(
            f"student.start: {unmatched[0]} has no counterpart of its shape in the teacher; copying layers needs the "
            "teacher's width, heads and inner size: change student.shape, or set student.start.kind to random"
        )
    student.load_state_dict({name: source[origin] for name, origin in taken.items()})


def block_prefix(model: PreTrainedModel) -> str:
    """Name of the module list that holds the transformer blocks, such as `encoder.layer`."""
    depth = model.config.num_hidden_layers
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not names:
        raise ConfigError(
            f"student.start: {type(model).__name__} has no list of {depth} blocks to copy from; "
            "set student.start.kind to random"
        )
    return min(names, key=lambda name: name.count("."))


def with_head(encoder: PreTrainedModel, labels: tuple[str, ...], *, seed: int) -> PreTrainedModel:
    """The encoder under a fresh classification head, drawn with `seed`."""
    config = copy.deepcopy(encoder.config)
    name_classes(config, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, **attention_of(config)
        )
    own = model.base_model.state_dict()
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if name in own}
    model.base_model.load_state_dict(weights)
    return model


@contextmanager
def dropout(model: nn.Module, probability: float | None) -> Iterator[None]:
    """Inside the block every dropout of the model has this probability; None leaves each as its config says."""
    undo: list[Callable[[], None]] = []
    for module in model.modules() if probability is not None else ():
        # Some families keep the attention's probability as a plain number beside the module.
        names = ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout", "dropout_prob")
        for name in names:
            if isinstance(before := getattr(module, name, None), float):
                undo.append(partial(setattr, module, name, before))
                setattr(module, name, probability)
    try:
        yield
    finally:
        for restore in undo:
            restore()


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of the encoder with its pooler, without any head."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def encoder_flops(shape: StudentShape, *, sequence_length: int = 128) -> int:
    """Floating-point operations of the blocks for one sequence, two per multiply-add; norms and softmax left out.

    Per token and block: 4·d² for query, key, value and output, 2·d·f for the feed-forward part, 2·S·d for the two
    attention products. Gives TinyBERT's published 1.2 G and 22.5 G (table 1) at length 128.
    """
    width, inner = shape.hidden_size, shape.intermediate_size
    per_token = 4 * width**2 + 2 * width * inner + 2 * sequence_length * width
    return 2 * per_token * sequence_length * shape.num_layers
