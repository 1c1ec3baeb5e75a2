"""Runs one stage: teacher, data, objective, student; fit; evaluate; checkpoint. Without Prefect and without MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from schemas.base import digest_of
from schemas.data import Data, GeneralCorpus, TaskDataset, TaskMixture
from schemas.objective import LabelObjective, MaskedLanguageObjective, Objective, TaskObjective
from schemas.problems import AnyProblem, Classification
from schemas.results import CheckpointRef, Manifest, StageResult
from schemas.stage import StageConfig
from stages.corpus import load_corpus
from stages.corpus_tokens import tokenize_corpus
from stages.encoders import load_config, load_tokenizer, locate
from stages.evaluation import answers_of, drawn_rows, held_out_losses, read_rows
from stages.fit import fit
from stages.identity import stage_identity
from stages.masking import Masking
from stages.models import (
    PROJECTIONS,
    Started,
    class_groups,
    load_teachers,
    shares_of,
    start_student,
)
from stages.objectives import ObjectiveTerms
from stages.ports import Ports
from stages.runtime import Runtime
from stages.scoring import VectorScorer, scorer_of
from stages.sentence import Model
from stages.sources import TaskRows, load_task
from stages.student import count_parameters, dropout
from stages.tokenizing import tokenize_task
from stages.tokens import Tokens

EXTRACTION = "extraction.json"
_HELD_OUT_ROWS = 256


@dataclass(frozen=True)
class StageData:
    """A stage's text, ready to be batched."""

    train: Tokens
    held_out: Tokens
    labels: tuple[str, ...]
    """Names of a head's outputs in order; empty for a general corpus."""
    rows: TaskRows | None = None
    """What the sequences were made of; None for a general corpus, and for several tasks."""
    problem: AnyProblem | None = None
    """The task's kind; None for a general corpus."""


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
    teachers = load_teachers(config, data.labels, data.problem)
    started = start_student(config, parent, data.train, data.labels, data.problem, tokenizer)
    student = started.model
    objective = make_objective(config, started, teachers, data, tokenizer)
    with dropout(student, config.training.dropout):
        fitted = fit(
            student,
            teachers,
            data.train,
            objective,
            config.training,
            ports,
            description=config.name,
        )
    metrics = fitted.metrics | evaluate(config, student, teachers, objective, data)
    ports.sink.log(fitted.steps, {key: metrics[key] for key in metrics if key.startswith("eval/")})
    identity = stage_identity(config, parent.digest if parent else None)
    manifest = Manifest(
        stage=config.name,
        digest=digest_of(identity),
        identity=identity,
        parent_digest=parent.digest if parent else None,
        config=config,
        files={},
        metrics=metrics,
        steps=fitted.steps,
        tokens=fitted.tokens,
        seconds=fitted.seconds,
        num_parameters=count_parameters(student.config),
        labels=data.labels if has_head(config.objective) else (),
        versions={},
        mlflow_run_id=ports.mlflow_run_id,
        created="",
    )

    def write(into: Path) -> None:
        student.cpu().save_pretrained(into / "model", safe_serialization=True)
        tokenizer.save_pretrained(into / "model")
        tensors = {
            name: tensor.contiguous() for name, tensor in objective.projection_tensors().items()
        }
        if tensors:
            save_file(tensors, into / PROJECTIONS)
        if started.extraction is not None:
            text = json.dumps(started.extraction, indent=1)
            (into / EXTRACTION).write_text(text + "\n", encoding="utf-8")

    return StageResult(
        checkpoint=ports.checkpoints.commit(manifest, write),
        metrics=metrics,
        steps=fitted.steps,
        tokens=fitted.tokens,
        seconds=fitted.seconds,
        mlflow_run_id=ports.mlflow_run_id,
    )


def make_objective(
    config: StageConfig,
    started: Started,
    teachers: list[Model],
    data: StageData,
    tokenizer: PreTrainedTokenizerFast,
) -> ObjectiveTerms:
    """The stage's objective for its models."""
    masking = None
    if isinstance(config.objective, MaskedLanguageObjective):
        masking = Masking.of(
            tokenizer, ratio=config.objective.mask_ratio, seed=config.training.seed
        )
    mixed = isinstance(config.data, TaskMixture)
    return ObjectiveTerms(
        config.objective,
        student=started.model,
        teachers=teachers,
        seed=config.training.seed,
        shares=shares_of(config),
        projections=started.projections,
        problem=data.problem or Classification(),
        class_groups=class_groups(data.labels) if mixed else None,
        masking=masking,
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
            return StageData(train, validation, rows.labels, rows, rows.problem)
        case TaskMixture():
            parts = {
                name: load_data(TaskDataset(task=task), tokenizer, cache)
                for name, task in data.tasks.items()
            }
            sizes = [len(part.labels) for part in parts.values()]
            return StageData(
                Tokens.joined([part.train for part in parts.values()], sizes),
                Tokens.joined([part.held_out for part in parts.values()], sizes),
                tuple(f"{name}/{label}" for name, part in parts.items() for label in part.labels),
                problem=Classification(),
            )


def has_head(objective: Objective) -> bool:
    """Whether the student is trained under a head for the task."""
    return isinstance(objective, TaskObjective | LabelObjective)


def evaluate(
    config: StageConfig,
    student: Model,
    teachers: list[Model],
    objective: ObjectiveTerms,
    data: StageData,
) -> dict[str, float]:
    """The stage's own losses on held-out rows, and its head's scores where it has one."""
    for teacher in teachers:
        torch.nn.Module.to(teacher, student.device)
    # In the number format of training, whose losses these stand beside.
    with Runtime(config.training.precision).autocast():
        losses = held_out_losses(
            student, teachers, objective, data.held_out, max_rows=_HELD_OUT_ROWS
        )
    metrics = {f"eval/{name}": value for name, value in losses.items()}
    if not has_head(config.objective):
        return metrics
    if data.rows is not None and isinstance(config.data, TaskDataset):
        scorer = scorer_of(
            data.rows, "validation", data.held_out, np.arange(len(data.rows.validation))
        )
        if isinstance(scorer, VectorScorer):
            scorer.teacher = answers_of(teachers[0], scorer) if teachers else None
        main = config.data.task.main_metric
        scores = scorer.scores(main, answers_of(student, scorer))
        return metrics | {f"eval/{name}": each.value for name, each in scores.items()}
    assert data.held_out.labels is not None
    logits = read_rows(student, data.held_out, drawn_rows(len(data.held_out))).logits
    assert logits is not None
    groups = answers_by_group(np.stack(logits), data.held_out.labels, data.labels)
    assert isinstance(config.data, TaskMixture)
    shares = {
        name: float((right == given).mean())
        for name, (right, given) in zip(config.data.tasks, groups, strict=True)
    }
    metrics |= {f"eval/accuracy/{name}": value for name, value in shares.items()}
    return metrics | {"eval/accuracy": sum(shares.values()) / len(shares)}


def answers_by_group(
    logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Right classes and answers of each task's rows, where every answer is one of the row's own task."""
    for start, end in class_groups(names):
        own = (labels >= start) & (labels < end)
        yield labels[own], logits[own, start:end].argmax(-1) + start
