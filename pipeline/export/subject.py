"""The checkpoint that is exported, with the texts on which its files are checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from pipeline.recipes.task_argument import task_argument
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint
from schemas.core.errors import ConfigError
from schemas.core.metrics import MetricName
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import TaskDataset, TaskMixture, longest_sequence
from schemas.data.tasks import AnyTask, describe_task
from schemas.results.manifest import Manifest, RunReport
from stages.data.batching.tokens import Tokens
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.tokenize import tokenize_corpus
from stages.data.tasks.load import load_task
from stages.data.tasks.stratified import drawn_rows
from stages.data.tasks.tokenize import tokenize_split
from stages.evaluation.scorer import AnyScorer
from stages.judge import task_scorers
from stages.kinds.base import Logits
from stages.kinds.registry import kind_of
from stages.models.encoders import load_config, load_encoder, load_tokenizer
from stages.models.read import read_rows
from stages.models.sentence_encoder import Model

_MOST_ROWS = 1000
_FEW_ROWS = 500


@dataclass(frozen=True)
class Subject:
    """A checkpoint, opened."""

    folder: Path
    """The checkpoint's folder."""
    manifest: Manifest
    model: Model
    tokenizer: PreTrainedTokenizerFast
    task: AnyTask | None
    """The task whose rows are read; None for a checkpoint without a head, which is checked on its corpus."""
    scorer: AnyScorer | None
    """Scorer of validation rows; None without a head."""
    most_rows: int
    """Most validation rows that are scored."""
    checked: Tokens
    """Sequences on which the files are checked."""
    other: Tokens
    """Sequences for choices, such as how to quantise: never those that are reported."""

    @cached_property
    def sequences(self) -> NDArray[np.int64]:
        """Those of the checked sequences that are read."""
        return drawn_rows(len(self.checked), _FEW_ROWS) if self.scorer is None else self.scorer.sequences

    @cached_property
    def other_sequences(self) -> NDArray[np.int64]:
        """Those of the other sequences that are read."""
        return drawn_rows(len(self.other), _FEW_ROWS)

    @cached_property
    def expected(self) -> Logits:
        """The checkpoint's outputs for the checked sequences that are read."""
        return self.outputs(self.checked, self.sequences)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence that the checkpoint was trained with."""
        return longest_sequence(self.manifest.config.data)

    @property
    def metric(self) -> MetricName | None:
        """The task's main score."""
        return None if self.task is None else self.task.main_metric

    @property
    def task_name(self) -> str | None:
        """The task's short name."""
        return None if self.task is None else describe_task(self.task)

    def outputs(self, tokens: Tokens, rows: NDArray[np.int64]) -> Logits:
        """Return the checkpoint's outputs: those of its head, or the last hidden states of real tokens."""
        if self.scorer is None:
            return read_rows(self.model, tokens, rows, lambda some: np.ones(tokens.lengths[some].sum(), bool)).features
        logits = read_rows(self.model, tokens, rows).logits
        assert logits is not None
        return logits


def checkpoint_of(name: str, store: CheckpointStore) -> Path:
    """Return the folder of a checkpoint, given by itself or by the run whose last student it is.

    Raises:
        ConfigError: neither a folder nor a run of the store, or a run without a student.
    """
    if Path(name).is_dir():
        return Path(name)
    report = store.read_report(name)
    if not isinstance(report, RunReport):
        raise ConfigError(f"{name} is a run of several tasks: give the run of one of them, such as those that it lists")
    students = [row for row in report.rows if row.kind == "stage" and row.checkpoint is not None]
    if not students or students[-1].checkpoint is None:
        raise ConfigError(f"{name} has no student: it ended before its first stage")
    return Path(students[-1].checkpoint.path)


def open_subject(folder: Path, task: str | None, cache: Path, *, most_rows: int = _MOST_ROWS) -> Subject:
    """Open a checkpoint and read its texts.

    Args:
        folder: the checkpoint.
        task: a task as of `distill evaluate --task`; None for that of the checkpoint's training.
        cache: folder of tokenised data.
        most_rows: most validation rows that are scored, drawn by class.

    Raises:
        CheckpointError: the folder is no checkpoint, or it is damaged.
        ConfigError: no such task; or a checkpoint of several tasks, and none was named.
        DataError: the texts cannot be read.
    """
    reference, manifest = open_checkpoint(folder)
    data, model_folder = manifest.config.data, Path(reference.path) / "model"
    tokenizer = load_tokenizer(model_folder, load_config(model_folder))
    if not manifest.labels and not manifest.config.objective.trains_task_head:
        return _headless(Path(reference.path), manifest, tokenizer, cache, most_rows)
    if task is None and isinstance(data, TaskMixture):
        raise ConfigError(f"{folder} answers several tasks: name one of them with --task")
    chosen = task_argument(task, manifest) if task else _own_task(manifest)
    rows = load_task(chosen, cache, droppable=1)
    head = kind_of(rows.problem).head
    model = head.load(model_folder)
    head.match_labels(model, rows.labels, model_folder)
    length = longest_sequence(data)
    scorer = task_scorers(rows, tokenizer, max_length=length, cache=cache, max_rows=most_rows)["validation"]
    train = tokenize_split(rows, "train", tokenizer, max_length=length, cache=cache)
    return Subject(
        Path(reference.path), manifest, model, tokenizer, chosen, scorer, most_rows, scorer.rows.tokens, train
    )


def _own_task(manifest: Manifest) -> AnyTask:
    data = manifest.config.data
    assert isinstance(data, TaskDataset)
    return data.task


def _headless(
    folder: Path, manifest: Manifest, tokenizer: PreTrainedTokenizerFast, cache: Path, most_rows: int
) -> Subject:
    data, model = manifest.config.data, load_encoder(folder / "model")
    if isinstance(data, GeneralCorpus):
        train, held_out = tokenize_corpus(load_corpus(data, cache), tokenizer, max_length=data.max_length, cache=cache)
    else:
        rows = load_task(_own_task(manifest), cache, droppable=1)
        train, held_out = (
            tokenize_split(rows, split, tokenizer, max_length=longest_sequence(data), cache=cache)
            for split in ("train", "validation")
        )
    return Subject(folder, manifest, model, tokenizer, None, None, most_rows, held_out, train)
