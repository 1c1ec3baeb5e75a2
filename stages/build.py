"""Builds the models of a stage: its teachers, and the student before training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import TaskKind
from schemas.core.layer_map import teacher_layers
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, TaskObjective
from schemas.recipe.parts import TeacherShape
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ExtractStart, ModelStart, StudentConfig, StudentShape
from schemas.recipe.teacher import Committee, members_of
from schemas.results.manifest import CheckpointRef
from stages.data.batching.batches import evaluation_batches
from stages.data.batching.tokens import Batch, Tokens
from stages.data.tasks.stratified import drawn_rows
from stages.device.runtime import return_freed_memory
from stages.head_start import start_head
from stages.kinds.registry import kind_of
from stages.models.encoders import check_same_vocabulary, folder_digest, load_config, load_encoder, locate, shape_of
from stages.models.extraction.extract import choose_parts, extract_student
from stages.models.extraction.importance import Importance, measure_importance
from stages.models.masked_lm import has_word_head, load_word_model, with_word_head
from stages.models.sentence_encoder import Model
from stages.models.student import fresh_student, student_config
from stages.models.tensors import read_tensors
from stages.models.weights import check_weights
from stages.objective.objective import Shares
from stages.storage.format_versions import NUMERICS_VERSION
from stages.storage.sealed_folder import is_whole, make_whole
from stages.training.value_scale import Units, fresh_in_units, trained_in_units

PROJECTIONS = "projections.safetensors"
EXTRACTION = "extraction.json"
_CALIBRATION_TOKENS = 4096
_IMPORTANCE = "importance.safetensors"


@dataclass(frozen=True)
class InitialStudent:
    """A student ready to be trained."""

    model: Model
    projections: dict[str, Tensor]
    """Projections of the previous stage, by name."""
    extraction: dict[str, Any] | None = None
    """Summary of the teacher's parts it was cut from; None if it was not cut from a teacher."""
    parent: Path | None = None
    """Checkpoint that it continues from; None for a fresh start."""

    @property
    def channels(self) -> list[int] | None:
        """The teacher's channel of each of its hidden channels; None if they are not known."""
        return (self.extraction or {}).get("hidden_channels")


def load_teachers(
    config: StageConfig, labels: tuple[str, ...], problem: TaskKind | None, units: Units | None = None
) -> list[Model]:
    """Load the teachers of a stage; none for hard labels alone.

    Args:
        config: the stage.
        labels: names of the outputs of the task's head; empty for a general corpus.
        problem: kind of the task; None for a general corpus.
        units: mean and deviation of the task's values; None if it has none.

    Raises:
        DataError: a teacher's outputs do not fit the task, or a head is needed and missing.
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
        if config.objective.soft_label is None:
            return load_encoder(folder)
        return load_word_model(folder)
    assert problem is not None
    head = kind_of(problem).head
    teacher = head.load(folder)
    head.match_labels(teacher, labels, folder)
    if units is not None:
        trained_in_units(teacher, units)
    return teacher


def shares_of(config: StageConfig) -> Shares | None:
    """Weights of the stage's teachers; None for a single teacher."""
    if not isinstance(config.teacher, Committee):
        return None
    return Shares(config.teacher.weights, by_confidence=config.teacher.weighting == "confidence")


def initial_student(
    config: StageConfig,
    parent: CheckpointRef | None,
    text: Tokens,
    labels: tuple[str, ...],
    problem: TaskKind | None,
    tokenizer: PreTrainedTokenizerFast,
    units: Units | None = None,
    teachers: Sequence[Model] = (),
    *,
    start_text: Tokens | None = None,
    cache: Path,
) -> InitialStudent:
    """Build the student before training: from `parent`, afresh, or the pretrained teacher itself.

    Args:
        config: the stage.
        parent: the checkpoint that the student continues from; None for a fresh start.
        text: training text of the stage, on which a head is fitted.
        labels: names of the head's outputs; empty for a general corpus.
        problem: kind of the task; None for a general corpus.
        tokenizer: the teacher's.
        units: mean and deviation of the task's values; None if it has none.
        teachers: as `load_teachers` returns them; the first has the head that a student's may start from.
        start_text: text on which the importance of the teacher's parts is measured; None for the stage's.
        cache: folder that keeps that importance.
    """
    pretrained = locate(config.pretrained)
    if parent is not None:
        initial = _of_checkpoint(parent, config)
    elif config.student is None:
        initial = InitialStudent(load_encoder(pretrained), {})
    else:
        initial = afresh(config.student, pretrained, text if start_text is None else start_text, tokenizer, cache)
    encoder = initial.model
    assert isinstance(encoder, PreTrainedModel)
    model: Model = encoder
    if isinstance(config.objective, MaskedLanguageObjective):
        model = with_word_head(encoder, pretrained, seed=config.training.seed)
    elif not isinstance(config.objective, LatentObjective):
        assert problem is not None
        model = _with_head(config, encoder, labels, problem, units)
        if isinstance(config.objective, TaskObjective) and config.objective.head != "fresh":
            _start_head(config, model, teachers[0], text, problem)
    return replace(initial, model=model)


def _start_head(config: StageConfig, model: Model, teacher: Model, text: Tokens, problem: TaskKind) -> None:
    assert isinstance(config.objective, TaskObjective)
    copies, answered = config.objective.head == "teacher", kind_of(problem).answered
    start_head(model, teacher, text, answered, seed=config.training.seed, copies=copies)


def _with_head(
    config: StageConfig, encoder: PreTrainedModel, labels: tuple[str, ...], problem: TaskKind, units: Units | None
) -> Model:
    """Return the encoder under a fresh head, which predicts in the task's units."""
    teachers = [locate(teacher.model) for teacher in members_of(config.teacher)]
    model = kind_of(problem).head.on(encoder, labels, seed=config.training.seed, teacher=next(iter(teachers), None))
    if units is not None:
        fresh_in_units(model, units)
    return model


def _of_checkpoint(parent: CheckpointRef, config: StageConfig) -> InitialStudent:
    model = load_encoder(Path(parent.path) / "model")
    if config.student is not None:
        check_family(model.config, config.student, locate(config.pretrained), Path(parent.path))
        check_shape(shape_of(model.config), config.student.shape, Path(parent.path))
    folder = Path(parent.path)
    return InitialStudent(model, read_projections(folder), read_extraction(folder), folder)


def read_projections(checkpoint: Path) -> dict[str, Tensor]:
    """Return the projections that a checkpoint keeps, by name; empty if it keeps none."""
    file = checkpoint / PROJECTIONS
    return read_tensors(file) if file.is_file() else {}


def read_extraction(checkpoint: Path) -> dict[str, Any] | None:
    """Return the summary of the extraction that a checkpoint's student began with; None if there is none.

    Summaries written by earlier versions have no `hidden_channels`, and only the first stage has a summary.

    Raises:
        DataError: the file is not a summary.
    """
    file = checkpoint / EXTRACTION
    if not file.is_file():
        return None
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        channels = summary.get("hidden_channels", [])
        valid = all(isinstance(channel, int) and channel >= 0 for channel in channels)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); fetch the checkpoint again, or run its stage again"
        ) from None
    if not valid:
        raise DataError(f"{file}: hidden_channels are not channel numbers; fetch the checkpoint again")
    return cast("dict[str, Any]", summary)


def afresh(
    student: StudentConfig, pretrained: Path, text: Tokens, tokenizer: PreTrainedTokenizerFast, cache: Path
) -> InitialStudent:
    """Build a student that continues from no checkpoint, without a head.

    Args:
        student: its shape and start.
        pretrained: the pretrained teacher's folder.
        text: text on which a teacher's parts are chosen.
        tokenizer: the teacher's.
        cache: folder that keeps the importance of the teacher's parts.
    """
    start = student.start
    if isinstance(start, ModelStart):
        folder = locate(start.model)
        check_same_vocabulary(folder, pretrained, key="student.start.model")
        model = load_encoder(folder)
        check_shape(shape_of(model.config), student.shape, folder)
        return InitialStudent(model, {})
    if isinstance(start, ExtractStart):
        return _extracted(student, start, pretrained, text, tokenizer, cache)
    return InitialStudent(fresh_student(student, pretrained), {})


def _extracted(
    student: StudentConfig,
    start: ExtractStart,
    pretrained: Path,
    text: Tokens,
    tokenizer: PreTrainedTokenizerFast,
    cache: Path,
) -> InitialStudent:
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
        batches = list(_calibration_batches(text, start))
        importance = _importance(pretrained, batches, int(tokenizer.mask_token_id), start.seed, cache)
    extraction = choose_parts(teacher_config, config, layers, importance=importance, seed=start.seed)
    model = extract_student(load_encoder(pretrained), config, extraction)
    return InitialStudent(model, {}, extraction.summary())


def _importance(pretrained: Path, batches: Sequence[Batch], mask_token_id: int, seed: int, cache: Path) -> Importance:
    """Return the importance of the teacher's parts, measured once for the same teacher, text and seed.

    A run needs it up to three times: for the first stage, to judge its start, and for the control.
    """
    text = hashlib.sha256()
    for batch in batches:
        text.update(batch.input_ids.numpy().tobytes() + batch.attention_mask.numpy().tobytes())
    identity = {
        "teacher": folder_digest(pretrained),
        "text": text.hexdigest(),
        "mask_token_id": mask_token_id,
        "seed": seed,
        "version": NUMERICS_VERSION,
    }
    folder = cache / "importance" / digest_of(identity)[:32]
    if not is_whole(folder):
        teacher = load_word_model(pretrained) if has_word_head(pretrained) else load_encoder(pretrained)
        measured = measure_importance(teacher, batches, mask_token_id=mask_token_id, seed=seed)
        make_whole(folder, lambda into: save_file(vars(measured), into / _IMPORTANCE))
        return_freed_memory()  # batches four times as large as a step's
    return Importance(**read_tensors(folder / _IMPORTANCE))


def _calibration_batches(text: Tokens, start: ExtractStart) -> Iterator[Batch]:
    rows = drawn_rows(len(text), start.calibration_rows, seed=start.seed)
    for indices in evaluation_batches(text.lengths[rows], microbatch_tokens=_CALIBRATION_TOKENS):
        yield text.batch(rows[indices])


def check_parent(folder: Path, student: StudentConfig, pretrained: Path) -> None:
    """Refuse a model that the recipe's student cannot continue from, before anything is trained.

    Args:
        folder: the model.
        student: the recipe's.
        pretrained: the teacher, whose tokenizer is used.

    Raises:
        ConfigError: the model's family or shape differs from the recipe's student.
        DataError: the vocabulary differs, or its weights do not match its config.
    """
    config = load_config(folder)
    check_family(config, student, pretrained, folder)
    check_shape(shape_of(config), student.shape, folder)
    check_weights(AutoModel, folder, config)
    check_same_vocabulary(folder, pretrained, key="--resume-from")


def check_family(config: PretrainedConfig, student: StudentConfig, pretrained: Path, folder: Path) -> None:
    """Refuse to continue from a model whose family is not that of the recipe's student."""
    family = student.model_type or load_config(pretrained).model_type
    if config.model_type != family:
        raise ConfigError(
            f"student.model_type: {family}, but {folder} holds a {config.model_type} model; continue from a model of "
            f"the same family, or set student.model_type to {config.model_type}"
        )


def check_shape(actual: TeacherShape, shape: StudentShape, folder: Path) -> None:
    """Refuse to continue from a model whose shape is not that of the recipe's student."""
    for name in StudentShape.model_fields:
        if getattr(actual, name) != getattr(shape, name):
            raise ConfigError(
                f"student.shape.{name}: {getattr(shape, name)}, but {folder} has {getattr(actual, name)}; continue "
                "from a model of the same shape, or change the recipe's shape"
            )
