"""Builds the models of a stage: the teachers it learns from, and the student it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from schemas.core.errors import ConfigError
from schemas.core.kinds import Embedding, TaskKind
from schemas.core.layer_map import teacher_layers
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, soft_label_of
from schemas.recipe.parts import TeacherShape
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ExtractStart, ModelStart, StudentConfig, StudentShape
from schemas.recipe.teacher import Committee, members_of
from schemas.results.manifest import CheckpointRef
from stages.data.batching.batches import evaluation_batches
from stages.data.batching.tokens import Batch, Tokens
from stages.data.tasks.stratified import drawn_rows
from stages.models.encoders import check_same_vocabulary, load_config, load_encoder, locate, shape_of
from stages.models.extraction.extract import choose_parts, extract_student
from stages.models.extraction.importance import measure_importance
from stages.models.heads import check_outputs, load_with_head, with_head
from stages.models.masked_lm import has_word_head, load_word_model, with_word_head
from stages.models.sentence_encoder import Model, vector_width
from stages.models.student import fresh_student, student_config
from stages.models.tensors import read_tensors
from stages.models.weights import check_weights
from stages.objective.objective import Shares
from stages.training.value_scale import Units, fresh_in_units, trained_in_units

PROJECTIONS = "projections.safetensors"
_CALIBRATION_TOKENS = 4096


@dataclass(frozen=True)
class Started:
    """A student ready to be trained."""

    model: Model
    projections: dict[str, Tensor]
    """What it brings along from the stage before."""
    extraction: dict[str, Any] | None = None
    """Which parts of the teacher it was made of, where it was."""


def load_teachers(
    config: StageConfig, labels: tuple[str, ...], problem: TaskKind | None, units: Units | None = None
) -> list[Model]:
    """The models the student learns from; none when there are only hard labels.

    Args:
        config: the stage.
        labels: names of the outputs of the task's head; empty for a general corpus.
        problem: the task's kind; None for a general corpus.
        units: of the task's values; None where it has none.

    Raises:
        DataError: what one answers is not what the task asks, or it has no head where its answers are wanted.
    """
    return [
        _load_teacher(config, locate(teacher.model), labels, problem, units) for teacher in members_of(config.teacher)
    ]


def _load_teacher(
    config: StageConfig, folder: Path, labels: tuple[str, ...], problem: TaskKind | None, units: Units | None
) -> Model:
    if isinstance(config.objective, LatentObjective):
        return load_encoder(folder)
    if isinstance(config.objective, MaskedLanguageObjective):
        if soft_label_of(config.objective) is None:
            return load_encoder(folder)
        return load_word_model(folder)
    assert problem is not None
    teacher = load_with_head(folder, problem)
    check_outputs(teacher, problem, labels, folder)
    if units is not None:
        trained_in_units(teacher, units)
    return teacher


def shares_of(config: StageConfig) -> Shares | None:
    """How the stage's teachers are weighed; None where there is only one."""
    if not isinstance(config.teacher, Committee):
        return None
    return Shares(config.teacher.weights, by_confidence=config.teacher.weighting == "confidence")


def start_student(
    config: StageConfig,
    parent: CheckpointRef | None,
    text: Tokens,
    labels: tuple[str, ...],
    problem: TaskKind | None,
    tokenizer: PreTrainedTokenizerFast,
    units: Units | None = None,
) -> Started:
    """The model to train: gone on with from `parent`, started afresh, or the pretrained teacher itself.

    Args:
        config: the stage.
        parent: the checkpoint the student goes on from; None for a fresh start.
        text: the stage's own training text, which importance is measured on.
        labels: names of its head's outputs; empty for a general corpus.
        problem: the task's kind; None for a general corpus.
        tokenizer: the teacher's.
        units: of the task's values; None where it has none.
    """
    pretrained = locate(config.pretrained)
    started: Started
    if parent is not None:
        started = _of_checkpoint(parent, config)
    elif config.student is None:
        started = Started(load_encoder(pretrained), {})
    else:
        started = _fresh(config.student, pretrained, text, tokenizer)
    encoder = started.model
    assert isinstance(encoder, PreTrainedModel)
    model: Model = encoder
    seed = config.training.seed
    if isinstance(config.objective, MaskedLanguageObjective):
        model = with_word_head(encoder, pretrained, seed=seed)
    elif not isinstance(config.objective, LatentObjective):
        assert problem is not None
        width = _vector_width(config) if isinstance(problem, Embedding) else None
        model = with_head(encoder, problem, labels, seed=seed, vector_width=width)
        if units is not None:
            fresh_in_units(model, units)
    return Started(model, started.projections, started.extraction)


def _vector_width(config: StageConfig) -> int | None:
    """Of the vectors of the first teacher; None without one."""
    for teacher in members_of(config.teacher):
        folder = locate(teacher.model)
        return vector_width(folder, load_config(folder))
    return None


def _of_checkpoint(parent: CheckpointRef, config: StageConfig) -> Started:
    model = load_encoder(Path(parent.path) / "model")
    if config.student is not None:
        check_family(model.config, config.student, locate(config.pretrained), Path(parent.path))
        check_shape(shape_of(model.config), config.student.shape, Path(parent.path))
    file = Path(parent.path) / PROJECTIONS
    return Started(model, read_tensors(file) if file.is_file() else {})


def _fresh(student: StudentConfig, pretrained: Path, text: Tokens, tokenizer: PreTrainedTokenizerFast) -> Started:
    start = student.start
    if isinstance(start, ModelStart):
        folder = locate(start.model)
        check_same_vocabulary(folder, pretrained, place="student.start.model")
        model = load_encoder(folder)
        check_shape(shape_of(model.config), student.shape, folder)
        return Started(model, {})
    if isinstance(start, ExtractStart):
        return _extracted(student, start, pretrained, text, tokenizer)
    return Started(fresh_student(student, pretrained), {})


def _extracted(
    student: StudentConfig, start: ExtractStart, pretrained: Path, text: Tokens, tokenizer: PreTrainedTokenizerFast
) -> Started:
    teacher_config = load_config(pretrained)
    layers = teacher_layers(
        start.layer_map,
        num_student_layers=student.shape.num_layers,
        num_teacher_layers=teacher_config.num_hidden_layers,
    )
    config = student_config(teacher_config, student.shape, layers=layers)
    importance = None
    if start.units == "importance":
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "student.start.units: importance is measured on masked words, and the teacher's tokenizer has no mask "
                "token; set student.start.units to random"
            )
        calibrated = load_word_model(pretrained) if has_word_head(pretrained) else load_encoder(pretrained)
        importance = measure_importance(
            calibrated, _calibration_batches(text, start), mask_token_id=tokenizer.mask_token_id, seed=start.seed
        )
    extraction = choose_parts(teacher_config, config, layers, importance=importance, seed=start.seed)
    model = extract_student(load_encoder(pretrained), config, extraction)
    return Started(model, {}, extraction.summary())


def _calibration_batches(text: Tokens, start: ExtractStart) -> Iterator[Batch]:
    rows = drawn_rows(len(text), start.calibration_rows, seed=start.seed)
    for places in evaluation_batches(text.lengths[rows], microbatch_tokens=_CALIBRATION_TOKENS):
        yield text.batch(rows[places])


def check_parent(folder: Path, student: StudentConfig, pretrained: Path) -> None:
    """Refuse a model that the recipe's student cannot go on from, before anything is trained.

    Args:
        folder: the model.
        student: the recipe's.
        pretrained: the teacher, whose tokenizer is used.

    Raises:
        ConfigError: it is of another family or shape.
        DataError: it has another vocabulary, or its files are not those of its config.
    """
    config = load_config(folder)
    check_family(config, student, pretrained, folder)
    check_shape(shape_of(config), student.shape, folder)
    check_weights(AutoModel, folder, config)
    check_same_vocabulary(folder, pretrained, place="--resume-from")


def check_family(found: PretrainedConfig, student: StudentConfig, pretrained: Path, folder: Path) -> None:
    """Refuse to go on from a model of another family than the recipe's student."""
    family = student.model_type or load_config(pretrained).model_type
    if found.model_type != family:
        raise ConfigError(
            f"student.model_type: {family}, but {folder} holds a {found.model_type} model; go on from a model of the "
            f"same family, or set student.model_type to {found.model_type}"
        )


def check_shape(found: TeacherShape, shape: StudentShape, folder: Path) -> None:
    """Refuse to go on from a model of another shape than the recipe's student."""
    for name in StudentShape.model_fields:
        if getattr(found, name) != getattr(shape, name):
            raise ConfigError(
                f"student.shape.{name}: {getattr(shape, name)}, but {folder} has {getattr(found, name)}; go on from a "
                "model of the same shape, or change the recipe's shape"
            )
