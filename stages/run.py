"""Runs one stage: teacher, data, objective, student; fit; evaluate; checkpoint. Without Prefect and without MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.core.kinds import Classification, TaskKind
from schemas.core.training import Selection
from schemas.data.stage_data import Data, GeneralCorpus, TaskDataset, TaskMixture
from schemas.data.tasks import AnyTask
from schemas.recipe.objective import LabelObjective, MaskedLanguageObjective, Objective, TaskObjective
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef, Manifest, StageResult
from stages.augmentation.task import Copyist, augmented_task
from stages.build import PROJECTIONS, Started, load_teachers, shares_of, start_student
from stages.data.batching.tokens import Tokens
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.tokenize import tokenize_corpus
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_split, tokenize_task
from stages.device.runtime import Runtime
from stages.evaluation.read_models import answers_of, held_out_losses
from stages.identity import differences, stage_identity
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.models.sentence_encoder import Model
from stages.models.student import count_parameters, dropout
from stages.objective.masking import Masking
from stages.objective.objective import ObjectiveTerms
from stages.ports.protocols import Ports
from stages.scores.scorers import VectorScorer
from stages.training.fit import Fitted, fit
from stages.training.selection import MEAN_SCORE, Selector, TaskPart, held_out_rows
from stages.training.value_scale import Units, fold_units
from stages.versions import installed_versions, utc_now

EXTRACTION = "extraction.json"
_HELD_OUT_ROWS = 256
_FINISH_SECONDS = 5.0
"""What a trained stage gets to be evaluated and kept after somebody asked to stop."""


@dataclass(frozen=True)
class StageData:
    """A stage's text, ready to be batched."""

    train: Tokens
    held_out: Tokens
    labels: tuple[str, ...]
    """Names of a head's outputs in order; empty for a general corpus."""
    problem: TaskKind | None = None
    """The task's kind; None for a general corpus."""
    parts: Mapping[str, TaskPart] = field(default_factory=dict)
    """The labelled tasks by name, a single one without; empty for a general corpus."""

    @property
    def positive_label(self) -> str | None:
        """The class that F1 of a single task is about; None where none is, and for several tasks."""
        only = self.parts.get("")
        return None if only is None else only.rows.positive_label

    @cached_property
    def units(self) -> Units | None:
        """Mean and deviation of the values that the head answers with; None where it has none."""
        return Units.of(part.rows for part in self.parts.values())


def run_stage(
    config: StageConfig, parent: CheckpointRef | None, ports: Ports, identity: dict[str, Any] | None = None
) -> StageResult:
    """Train one stage and keep its checkpoint.

    Args:
        config: the stage, every part resolved.
        parent: the checkpoint the student goes on from; None starts it afresh.
        ports: where points, states and the checkpoint go.
        identity: what the stage's digest covers; None to find it out. What changes later changes nothing of it.

    Raises:
        DataError: data or a model changed while it was read; nothing was trained.
    """
    parent_digest = parent.digest if parent else None
    identity = identity or stage_identity(config, parent_digest)
    folder = locate(config.pretrained)
    tokenizer = load_tokenizer(folder, load_config(folder))
    selection = config.training.selection
    copyist = Copyist(folder, ports.progress, ports.stop_requested, config.training.precision)
    data = load_data(config.data, tokenizer, ports.cache, selection, copyist)
    teachers = load_teachers(config, data.labels, data.problem, data.units)
    started = start_student(config, parent, data.train, data.labels, data.problem, tokenizer, data.units)
    student = started.model
    _check_unchanged(config, identity, stage_identity(config, parent_digest))
    objective = make_objective(config, started, teachers, data, tokenizer)
    _note_misfits(config, objective, ports)
    with ports.shielded(_FINISH_SECONDS):
        with dropout(student, config.training.dropout):
            fitted = fit(
                student,
                teachers,
                data.train,
                objective,
                config.training,
                ports,
                description=config.name,
                selector=Selector(selection, tuple(data.parts.values()), teachers) if selection is not None else None,
            )
        fold_units(student)
        metrics = fitted.metrics | evaluate(config, student, teachers, objective, data)
        ports.sink.log(fitted.steps, {key: metrics[key] for key in metrics if key.startswith("eval/")})
        manifest = _manifest(config, parent, fitted, metrics, data, student, ports, identity)
        checkpoint = ports.checkpoints.commit(manifest, lambda into: _write_model(into, started, objective, tokenizer))
    return StageResult(
        checkpoint=checkpoint,
        metrics=metrics,
        steps=fitted.steps,
        tokens=fitted.tokens,
        seconds=fitted.seconds,
        mlflow_run_id=ports.mlflow_run_id,
    )


def _check_unchanged(config: StageConfig, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changed := differences(before, now):
        raise DataError(
            f"{config.name}: {' and '.join(changed)} changed while it was read; run again once nothing writes to it"
        )


def _note_misfits(config: StageConfig, objective: ObjectiveTerms, ports: Ports) -> None:
    if objective.misfits:
        ports.progress.note(
            f"{config.name}: {', '.join(objective.misfits)} of the stage before have another width, so that these "
            "projections are drawn anew"
        )


def _manifest(
    config: StageConfig,
    parent: CheckpointRef | None,
    fitted: Fitted,
    metrics: dict[str, float],
    data: StageData,
    student: Model,
    ports: Ports,
    identity: dict[str, Any],
) -> Manifest:
    """What is known of a finished stage before its files are written."""
    return Manifest(
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
        positive_label=data.positive_label,
        versions=installed_versions(),
        mlflow_run_id=ports.mlflow_run_id,
        created=utc_now(),
    )


def _write_model(into: Path, started: Started, objective: ObjectiveTerms, tokenizer: PreTrainedTokenizerFast) -> None:
    """The student as a transformers folder, its projections beside it, and how it was cut from a teacher."""
    started.model.cpu().save_pretrained(into / "model", safe_serialization=True)
    tokenizer.save_pretrained(into / "model")
    tensors = {name: tensor.contiguous() for name, tensor in objective.projection_tensors().items()}
    if tensors:
        save_file(tensors, into / PROJECTIONS)
    if started.extraction is not None:
        text = json.dumps(started.extraction, indent=1)
        (into / EXTRACTION).write_text(text + "\n", encoding="utf-8")


def make_objective(
    config: StageConfig, started: Started, teachers: list[Model], data: StageData, tokenizer: PreTrainedTokenizerFast
) -> ObjectiveTerms:
    """The stage's objective for its models."""
    masking = None
    if isinstance(config.objective, MaskedLanguageObjective):
        masking = Masking.of(tokenizer, ratio=config.objective.mask_ratio, seed=config.training.seed)
    groups = None
    if isinstance(config.data, TaskMixture):
        groups = tuple((part.outputs.start, part.outputs.stop) for part in data.parts.values())
    return ObjectiveTerms(
        config.objective,
        student=started.model,
        teachers=teachers,
        seed=config.training.seed,
        shares=shares_of(config),
        projections=started.projections,
        problem=data.problem or Classification(),
        class_groups=groups,
        scales=None if (units := data.units) is None else units.scales,
        masking=masking,
    )


def load_data(
    data: Data,
    tokenizer: PreTrainedTokenizerFast,
    cache: Path,
    selection: Selection | None = None,
    copyist: Copyist | None = None,
) -> StageData:
    """The stage's text as tokens.

    Args:
        data: what is read.
        tokenizer: cuts it.
        cache: folder of tokenised data.
        selection: whether training rows are held out from training.
        copyist: makes the copies of augmented rows; None leaves them out.
    """
    match data:
        case GeneralCorpus():
            train, held_out = tokenize_corpus(
                load_corpus(data, cache), tokenizer, max_length=data.max_length, cache=cache
            )
            return StageData(train, held_out, ())
        case TaskDataset():
            part = _task_part(data.task, tokenizer, cache, selection)
            rows, learnt = part.rows, part.learnt()
            if data.augmentation is not None and copyist is not None:
                copied = augmented_task(rows, part.rows_learnt(), data.augmentation, copyist, cache)
                max_length = data.task.max_length
                learnt = tokenize_split(copied, "train", tokenizer, max_length=max_length, cache=cache)
            return StageData(learnt, part.validation, rows.labels, rows.problem, parts={"": part})
        case TaskMixture():
            return _mixture(data, tokenizer, cache, selection)


def _mixture(
    data: TaskMixture, tokenizer: PreTrainedTokenizerFast, cache: Path, selection: Selection | None
) -> StageData:
    """Several tasks' rows one after the other; their heads' outputs side by side."""
    parts: dict[str, TaskPart] = {}
    labels: tuple[str, ...] = ()
    for name, task in data.tasks.items():
        part = _task_part(task, tokenizer, cache, selection, first=len(labels))
        parts[name] = part
        labels += tuple(f"{name}/{label}" for label in part.rows.labels)
    sizes = [len(part.rows.labels) for part in parts.values()]
    return StageData(
        Tokens.joined([part.learnt() for part in parts.values()], sizes),
        Tokens.joined([part.validation for part in parts.values()], sizes),
        labels,
        # One layer of outputs, whatever each of them stands for.
        problem=Classification(),
        parts=parts,
    )


def _task_part(
    task: AnyTask,
    tokenizer: PreTrainedTokenizerFast,
    cache: Path,
    selection: Selection | None,
    *,
    first: int | None = None,
) -> TaskPart:
    """One labelled task, whose outputs begin with output `first` of the head; None where all are its own."""
    rows = load_task(task, cache, droppable=1)  # the look before the run had the recipe's limits
    train, validation = tokenize_task(rows, tokenizer, max_length=task.max_length, cache=cache)
    outputs = slice(None) if first is None else slice(first, first + len(rows.labels))
    held_out = None if selection is None else held_out_rows(rows, task, selection)
    return TaskPart(task, rows, train, validation, outputs, held_out)


def has_head(objective: Objective) -> bool:
    """Whether the student is trained under a head for the task."""
    return isinstance(objective, TaskObjective | LabelObjective)


def evaluate(
    config: StageConfig, student: Model, teachers: list[Model], objective: ObjectiveTerms, data: StageData
) -> dict[str, float]:
    """The stage's own losses on held-out rows, and its head's scores where it has one."""
    for teacher in teachers:
        torch.nn.Module.to(teacher, student.device)
    # In the number format of training, whose losses these stand beside.
    with Runtime(config.training.precision).autocast():
        losses = held_out_losses(student, teachers, objective, data.held_out, max_rows=_HELD_OUT_ROWS)
    metrics = {f"eval/{name}": value for name, value in losses.items()}
    if not has_head(config.objective):
        return metrics
    scores = {name: _task_scores(part, student, teachers[:1]) for name, part in data.parts.items()}
    if isinstance(config.data, TaskMixture):
        return metrics | _mixture_scores(scores, data)
    (only,) = scores.values()
    return metrics | {f"eval/{name}": value for name, value in only.items()}


def _task_scores(part: TaskPart, student: Model, teachers: list[Model]) -> dict[str, float]:
    """The scores of one task's validation rows."""
    scorer = part.scorer()
    if isinstance(scorer, VectorScorer):
        scorer.teacher = answers_of(teachers[0], scorer) if teachers else None
    scores = scorer.scores(part.task.main_metric, answers_of(student, scorer, part.outputs))
    return {name: each.value for name, each in scores.items()}


def _mixture_scores(scores: dict[str, dict[str, float]], data: StageData) -> dict[str, float]:
    """Every score of every task, the mean of their main ones, and that of the accuracies of those that have one."""
    found = {f"eval/{metric}/{name}": value for name, own in scores.items() for metric, value in own.items()}
    mains = [scores[name][part.task.main_metric] for name, part in data.parts.items()]
    found[f"eval/{MEAN_SCORE}"] = sum(mains) / len(mains)
    accuracies = [own["accuracy"] for own in scores.values() if "accuracy" in own]
    if accuracies:
        found["eval/accuracy"] = sum(accuracies) / len(accuracies)
    return found
