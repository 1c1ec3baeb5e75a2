"""`distill evaluate`: the metric of a checkpoint, and of the teacher it learned from, on a task."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from pipeline.checkpoints import open_checkpoint, open_store
from pipeline.report import percent
from pipeline.settings import read_settings
from schemas.base import Frozen
from schemas.data import DocstringTask, FileTask, HubTask, TaskData, describe_task
from schemas.errors import ConfigError
from schemas.teacher import members_of
from schemas.yaml_text import printable
from stages.encoders import load_classifier, load_config, load_tokenizer, locate
from stages.evaluation import logits_of, majority_share, score
from stages.models import check_labels
from stages.sources import load_task
from stages.tokenizing import tokenize_task
from stages.tokens import Tokens


class Score(Frozen):
    """One model's answers."""

    name: str
    """Model."""
    metric: float
    """The task's metric."""
    accuracy: float
    """Share of right answers."""


class Scores(Frozen):
    """A checkpoint beside its teacher."""

    task: str
    """The task's short name."""
    metric: str
    """Which metric."""
    rows: int
    """Validation rows scored."""
    majority: float
    """What always answering the most frequent class gets."""
    models: tuple[Score, ...]
    """The checkpoint, then its teacher where it had one."""


def evaluate_checkpoint(folder: Path, task: str, store: Path | None) -> Scores:
    """Score a checkpoint, and the fine-tuned teacher it learned from where that is still there.

    Raises:
        ConfigError: no such task, or the checkpoint has no trained head.
        CheckpointError: the folder is no checkpoint, or it is damaged.
    """
    try:
        data: DocstringTask | FileTask | HubTask = TypeAdapter(TaskData).validate_python(task)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--task {printable(reason, limit=400)}") from None
    reference, manifest = open_checkpoint(folder)
    if not manifest.labels:
        raise ConfigError(
            f"{folder}: a {manifest.stage} checkpoint has no trained head; evaluate a task_specific checkpoint, or see "
            "its probe accuracy with: distill compare"
        )
    cache = open_store(read_settings(store).store).cache
    rows = load_task(data, cache)
    model_folder = Path(reference.path) / "model"
    tokenizer = load_tokenizer(model_folder, load_config(model_folder))
    _, validation = tokenize_task(rows, tokenizer, max_length=data.max_length, cache=cache)
    models = [_score(manifest.stage, model_folder, data.metric, rows.labels, validation)]
    for teacher in members_of(manifest.config.teacher):
        there = Path(getattr(teacher.model, "path", "")).is_dir()
        if teacher.kind == "fine_tuned" and there:
            folder = locate(teacher.model)
            models.append(_score("teacher", folder, data.metric, rows.labels, validation))
    assert validation.labels is not None
    return Scores(
        task=describe_task(data),
        metric=data.metric,
        rows=len(validation),
        majority=majority_share(validation.labels),
        models=tuple(models),
    )


def _score(
    name: str, folder: Path, metric: str, labels: tuple[str, ...], validation: Tokens
) -> Score:
    model = load_classifier(folder)
    check_labels(model, labels, folder)
    answers = logits_of(model, validation).argmax(-1)
    assert validation.labels is not None
    return Score(
        name=name,
        metric=score(metric, validation.labels, answers),
        accuracy=score("accuracy", validation.labels, answers),
    )


def print_scores(scores: Scores, console: Console) -> None:
    """The scores as a table."""
    table = Table(title=f"{scores.task}: {scores.rows:,} validation rows", title_justify="left")
    for name in ("", f"{scores.metric} %", "accuracy %"):
        table.add_column(name, justify="left" if not name else "right")
    for model in scores.models:
        table.add_row(model.name, percent(model.metric), percent(model.accuracy))
    table.add_row("most frequent class", "–", percent(scores.majority), style="dim")
    console.print(table)
