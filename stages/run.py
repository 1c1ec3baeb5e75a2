"""Runs one stage: teacher, data, objective, student; fit; evaluate; checkpoint. Without Prefect and without MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from schemas.data import Data, GeneralCorpus, TaskDataset
from schemas.errors import ConfigError, DataError
from schemas.objective import LatentObjective
from schemas.results import CheckpointRef, Manifest, StageResult
from schemas.stage import StageConfig
from schemas.student import StudentShape
from stages.encoders import (
    class_names,
    load_classifier,
    load_config,
    load_encoder,
    load_tokenizer,
    locate,
    shape_of,
)
from stages.evaluation import held_out_losses, logits_of, score
from stages.identity import stage_digest
from stages.objectives import ObjectiveTerms
from stages.ports import Ports
from stages.sources import load_corpus, load_task
from stages.student import count_parameters, dropout, fresh_student, with_head
from stages.tokens import Tokens, tokenize_corpus, tokenize_task
from stages.trainer import Fitted, fit

PROJECTIONS = "projections.safetensors"
_HELD_OUT_ROWS = 512


@dataclass(frozen=True)
class StageData:
    """A stage's text, ready to be batched."""

    train: Tokens
    held_out: Tokens
    labels: tuple[str, ...]
    """Class names in order; empty for a general corpus."""


def run_stage(config: StageConfig, parent: CheckpointRef | None, ports: Ports) -> StageResult:
    """Train one stage and keep its checkpoint.

    Args:
        config: the stage, every part resolved.
        parent: the checkpoint the student goes on from; None starts it afresh.
        ports: where points, states and the checkpoint go.
    """
    folder = locate(config.pretrained)
    tokenizer = load_tokenizer(folder, load_config(folder))
    data = load_data(config.data, tokenizer, ports.cache)
    teacher = load_teacher(config, data.labels)
    student, projections = start_student(config, parent, folder, data.labels)
    objective = ObjectiveTerms(
        config.objective,
        student=student,
        teacher=teacher,
        seed=config.training.seed,
        projections=projections,
    )
    with dropout(student, config.training.dropout):
        fitted = fit(
            student, teacher, data.train, objective, config.training, ports, description=config.name
        )
    metrics = fitted.metrics | evaluate(config, student, teacher, objective, data)
    ports.sink.log(fitted.steps, {key: metrics[key] for key in metrics if key.startswith("eval/")})
    checkpoint = commit(
        config, parent, student, tokenizer, objective, fitted, metrics, data.labels, ports
    )
    return StageResult(
        checkpoint=checkpoint,
        metrics=metrics,
        steps=fitted.steps,
        tokens=fitted.tokens,
        seconds=fitted.seconds,
        mlflow_run_id=ports.mlflow_run_id,
    )


def load_data(data: Data, tokenizer: PreTrainedTokenizerFast, cache: Path) -> StageData:
    """The stage's text as tokens."""
    match data:
        case GeneralCorpus():
            train, held_out = tokenize_corpus(
                load_corpus(data, cache), tokenizer, max_length=data.max_length, cache=cache
            )
            return StageData(train, held_out, ())
        case TaskDataset():
            rows = load_task(data.task, cache)
            train, validation = tokenize_task(
                rows, tokenizer, max_length=data.task.max_length, cache=cache
            )
            return StageData(train, validation, rows.labels)


def load_teacher(config: StageConfig, labels: tuple[str, ...]) -> PreTrainedModel | None:
    """The model the student learns from; None when there are only hard labels.

    Raises:
        DataError: its classes are not the task's.
    """
    if config.teacher is None:
        return None
    folder = locate(config.teacher.model)
    if isinstance(config.objective, LatentObjective):
        return load_encoder(folder)
    teacher = load_classifier(folder)
    check_labels(teacher, labels, folder)
    return teacher


def check_labels(teacher: PreTrainedModel, labels: tuple[str, ...], folder: Path) -> None:
    """Refuse a fine-tuned teacher whose classes are not the task's, in the task's order."""
    names = class_names(teacher.config)
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    if len(names) != len(labels) or (not unnamed and names != labels and set(names) == set(labels)):
        raise DataError(
            f"teacher.task_model: {folder} answers with the classes {', '.join(names)}; the task has "
            f"{', '.join(labels)}: set task.labels to the teacher's names in the teacher's order, or fine-tune another"
        )


def start_student(
    config: StageConfig, parent: CheckpointRef | None, pretrained: Path, labels: tuple[str, ...]
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model to train and the projections it brings along."""
    projections: dict[str, Tensor] = {}
    if parent is not None:
        model = load_encoder(Path(parent.path) / "model")
        check_shape(model, config, parent)
        file = Path(parent.path) / PROJECTIONS
        projections = load_file(file) if file.is_file() else {}
    elif config.student is not None:
        model = fresh_student(config.student, pretrained)
    else:
        model = load_encoder(pretrained)
    if not isinstance(config.objective, LatentObjective):
        model = with_head(model, labels, seed=config.training.seed)
    return model, projections


def check_shape(model: PreTrainedModel, config: StageConfig, parent: CheckpointRef) -> None:
    """Refuse to go on from a checkpoint of another shape than the recipe's student."""
    if config.student is None:
        return
    shape, found = config.student.shape, shape_of(model.config)
    for name in StudentShape.model_fields:
        if getattr(found, name) != getattr(shape, name):
            raise ConfigError(
                f"student.shape.{name}: {getattr(shape, name)}, but the checkpoint {parent.path} has "
                f"{getattr(found, name)}; resume from a checkpoint of the same student, or change the recipe's shape"
            )


def evaluate(
    config: StageConfig,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    objective: ObjectiveTerms,
    data: StageData,
) -> dict[str, float]:
    """The stage's own losses on held-out rows, and its head's scores where it has one."""
    if teacher is not None:
        torch.nn.Module.to(teacher, student.device)
    losses = held_out_losses(student, teacher, objective, data.held_out, max_rows=_HELD_OUT_ROWS)
    metrics = {f"eval/{name}": value for name, value in losses.items()}
    if isinstance(config.data, TaskDataset) and not isinstance(config.objective, LatentObjective):
        labels = data.held_out.labels
        assert labels is not None
        predictions = logits_of(student, data.held_out).argmax(-1)
        for metric in {"accuracy", config.data.task.metric}:
            metrics[f"eval/{metric}"] = score(metric, labels, predictions)
    return metrics


def commit(
    config: StageConfig,
    parent: CheckpointRef | None,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    objective: ObjectiveTerms,
    fitted: Fitted,
    metrics: dict[str, float],
    labels: tuple[str, ...],
    ports: Ports,
) -> CheckpointRef:
    """Write the student as a transformers folder with its projections, and make it a checkpoint."""

    def write(folder: Path) -> None:
        student.cpu().save_pretrained(folder / "model", safe_serialization=True)
        tokenizer.save_pretrained(folder / "model")
        tensors = {
            name: tensor.contiguous() for name, tensor in objective.projection_tensors().items()
        }
        if tensors:
            save_file(tensors, folder / PROJECTIONS)

    manifest = Manifest(
        stage=config.name,
        digest=stage_digest(config, parent.digest if parent else None),
        parent_digest=parent.digest if parent else None,
        config=config,
        files={},
        metrics=metrics,
        steps=fitted.steps,
        tokens=fitted.tokens,
        seconds=fitted.seconds,
        num_parameters=count_parameters(student.config),
        labels=() if isinstance(config.objective, LatentObjective) else labels,
        versions={},
        mlflow_run_id=ports.mlflow_run_id,
        created="",
    )
    return ports.checkpoints.commit(manifest, write)
