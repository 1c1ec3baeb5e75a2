"""The student: its shape, and its initial weights."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.core.base import Frozen, parse_kind
from schemas.core.layer_map import OneToOneMap, UniformMap
from schemas.core.refs import ModelRef

_MOST_WEIGHTS = 2 * 10**10


def too_large(layers: int, width: int, inner: int) -> str | None:
    """Return the reason why no machine could hold an encoder of these sizes; None if one could."""
    weights = layers * width * (4 * width + 2 * inner)
    if weights <= _MOST_WEIGHTS:
        return None
    return (
        f"{layers:,} layers of hidden_size {width:,} and intermediate_size {inner:,} have {weights:.1e} weights, and "
        f"the largest encoder here has {_MOST_WEIGHTS:.0e}"
    )


class RecipeShape(Frozen):
    """Size of the student's encoder; all else, such as vocabulary and positions, comes from the teacher's config."""

    num_layers: int = Field(ge=1, le=200)
    """Transformer blocks."""
    hidden_size: int | None = Field(default=None, ge=1, le=65536)
    """Width of the hidden states; here as below, null for the teacher's, if its layers are copied."""
    num_attention_heads: int | None = Field(default=None, ge=1, le=1024)
    """Attention heads per block; must divide hidden_size."""
    intermediate_size: int | None = Field(default=None, ge=1, le=1_048_576)
    """Neurons of each block's feed-forward part."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size and self.num_attention_heads and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads do not divide a hidden_size of {self.hidden_size}; "
                "choose num_attention_heads so that hidden_size / num_attention_heads is whole"
            )
        return self

    @model_validator(mode="after")
    def _fits_a_machine(self) -> Self:
        reason = too_large(self.num_layers, self.hidden_size or 1, self.intermediate_size or 1)
        if reason is not None:
            raise ValueError(f"{reason}; lower one of the three")
        return self


class StudentShape(RecipeShape):
    """Size of an encoder with every number known."""

    hidden_size: int = Field(ge=1, le=65536)
    """Width of the hidden states."""
    num_attention_heads: int = Field(ge=1, le=1024)
    """Attention heads per block; must divide hidden_size."""
    intermediate_size: int = Field(ge=1, le=1_048_576)
    """Neurons of each block's feed-forward part."""


class RandomStart(Frozen):
    """Random weights, initialised as in the teacher's architecture."""

    kind: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the initialisation."""


class TeacherLayersStart(Frozen):
    """Copies of teacher blocks and of the embeddings; needs the teacher's width, heads and inner size."""

    kind: Literal["teacher_layers"] = "teacher_layers"
    layer_map: OneToOneMap = UniformMap()
    """Teacher block that each student block is copied from."""


class ExtractStart(Frozen):
    """Units of the teacher, for any smaller depth, width, head count and inner size (Extract Then Distill)."""

    kind: Literal["extract"] = "extract"
    units: Literal["random", "importance"] = "importance"
    """Heads, channels and neurons drawn at random (ETD-Rand), or ranked by importance in a calibration (ETD-Impt)."""
    layer_map: OneToOneMap = UniformMap()
    """Teacher block that each student block is extracted from."""
    calibration_rows: int = Field(default=512, ge=1, le=1_000_000)
    """Rows on which importance is measured: of the general corpus, or of the first stage's text without one."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draws of units and of calibration rows."""


class ModelStart(Frozen):
    """An existing student, such as a published general checkpoint; needs the teacher's vocabulary."""

    kind: Literal["model"] = "model"
    model: ModelRef
    """A hub id, a folder, a checkpoint of this project, or `package:NAME`."""


StudentStart = Annotated[
    RandomStart | TeacherLayersStart | ExtractStart | ModelStart,
    Field(discriminator="kind"),
    BeforeValidator(
        parse_kind, json_schema_input_type=RandomStart | TeacherLayersStart | ExtractStart | ModelStart | str
    ),
]


class RecipeStudent(Frozen):
    """The model that is trained."""

    shape: RecipeShape
    """Size of the encoder."""
    model_type: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_\-]*$")
    """Architecture by its name in transformers (`bert`, `distilbert`); null for the teacher's. The tokenizer stays."""
    start: StudentStart = RandomStart()
    """Source of its initial weights."""

    @property
    def missing_sizes(self) -> tuple[str, ...]:
        """Sizes that are the teacher's."""
        return tuple(name for name, size in self.shape if size is None)

    @model_validator(mode="after")
    def _copies_what_it_does_not_name(self) -> Self:
        if self.missing_sizes and not isinstance(self.start, TeacherLayersStart):
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "recipe",
                            "is missing ({purpose}); only layers copied from the teacher (student.start: "
                            "teacher_layers) imply it",
                            {"purpose": (StudentShape.model_fields[name].description or "").rstrip(".")},
                        ),
                        loc=("shape", name),
                        input=None,
                    )
                    for name in self.missing_sizes
                ],
            )
        return self


class StudentConfig(RecipeStudent):
    """The model that is trained, with its sizes known."""

    shape: StudentShape
    """Size of the encoder."""
