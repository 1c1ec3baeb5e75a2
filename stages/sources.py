"""From a task in the config to labelled rows, checked and drawn by the seed.

Everything that names a place (path, cache) stays out of the digests: a moved file is the same data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.base import digest_of
from schemas.data import (
    DocstringTask,
    FileTask,
    HubTask,
    TaskData,
)
from schemas.errors import DataError
from schemas.yaml_text import printable
from stages.columns import has_column
from stages.docstrings import (
    docstring_task_digest,
    docstring_task_rows,
    load_paragraphs,
)
from stages.files import (
    file_identity,
    first_row,
    label_column,
    listed,
    read_file,
    resolve_file,
    text_column,
)
from stages.hub import hub_commit, load_hub

# Raise when the same files should give other rows.
ROWS_VERSION = 1


@dataclass(frozen=True)
class TaskRows:
    """A labelled task: `text`, `text_pair` for pairs, and `label`, an index into `labels`."""

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...]
    digest: str


def task_digest(task: TaskData) -> str:
    """SHA-256 of what decides the rows: bytes of the files, or the hub's commit, and config."""
    if isinstance(task, DocstringTask):
        return docstring_task_digest(task)
    if isinstance(task, FileTask):
        task = _settled(task)
    config = task.model_dump(mode="json", exclude={"train", "validation", "revision"})
    content: dict[str, object]
    match task:
        case FileTask():
            content = {
                split: file_identity(path, f"task.{split}")
                for split, path in _task_files(task).items()
            }
        case HubTask():
            content = {"commit": hub_commit(task.id, task.revision) or task.revision}
        case _:
            assert_never(task)
    return digest_of({"config": config, "content": content, "version": ROWS_VERSION})


def _settled(task: FileTask) -> FileTask:
    """The task with its columns named, so that it is the same task as one that names them itself."""
    if task.text_pair != "auto":
        return task
    train = resolve_file(task.train, "task.train")
    pair = "text_b" if has_column(train, "text_b", "task.train") else None
    return task.model_copy(update={"text_pair": pair})


def _task_files(task: FileTask) -> dict[str, Path]:
    return {
        "train": resolve_file(task.train, "task.train"),
        "validation": resolve_file(task.validation, "task.validation"),
    }


def load_task(task: TaskData, cache: Path) -> TaskRows:
    """The rows of `task`, every one with text and a known label.

    Raises:
        DataError: a file, a row or a data set is not usable, with its place and what to do.
    """
    digest = task_digest(task)
    match task:
        case DocstringTask():
            if task.labels is not None and set(task.labels) != set(task.libraries):
                raise DataError(
                    "task.labels: must be the names of task.libraries, in any order; or leave it "
                    "out"
                )
            ordered = (
                task if task.labels is None else task.model_copy(update={"libraries": task.labels})
            )
            train, validation = docstring_task_rows(ordered, load_paragraphs(cache))
            labels = ordered.libraries
            validation = _draw(validation, task.max_validation_rows, task.seed)
        case FileTask():
            task, files = _settled(task), _task_files(task)
            where = {split: f"task.{split}: {path}" for split, path in files.items()}
            raw = {split: read_file(path, cache, f"task.{split}") for split, path in files.items()}
            train, validation, labels = _labelled(task, raw, where)
        case HubTask():
            splits = {"train": task.train_split, "validation": task.validation_split}
            where = {split: f"task: {task.id}, split {name}" for split, name in splits.items()}
            raw = {split: load_hub(task, name, where[split]) for split, name in splits.items()}
            train, validation, labels = _labelled(task, raw, where)
        case _:
            assert_never(task)
    train = _draw(train, task.max_train_rows, task.seed)
    if len(set(train["label"])) < 2:
        raise DataError(
            "task: all training rows have the same label; a task needs two classes or more"
        )
    return TaskRows(train, validation, labels, digest)


def _labelled(
    task: FileTask | HubTask, raw: dict[str, Dataset], where: dict[str, str]
) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    names = {split: label_column(rows, task.label, where[split]) for split, rows in raw.items()}
    labels = task.labels or _sorted_labels(raw["train"], task.label, names["train"])
    parts = []
    for split, rows in raw.items():
        columns = {"text": text_column(rows, task.text, where[split])}
        if task.text_pair is not None:
            columns["text_pair"] = text_column(rows, task.text_pair, where[split])
        codes = pc.index_in(names[split], value_set=pa.array(labels, pa.string()))
        if row := first_row(pc.is_null(codes)):
            found = names[split][row - 1].as_py()
            origin = "given as task.labels" if task.labels else "the labels of the training rows"
            raise DataError(
                f"{where[split]}: row {row}: label {printable(found, 60)!r} is not one of {listed(labels)} "
                f"({origin}); "
                "mend the row, or list every label in task.labels"
            )
        parts.append(Dataset(pa.table({**columns, "label": codes.cast(pa.int64())})))
    return parts[0], parts[1], labels


def _sorted_labels(rows: Dataset, column: str, names: pa.ChunkedArray) -> tuple[str, ...]:
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    distinct: list[str] = names.unique().to_pylist()
    if all(re.fullmatch(r"-?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _draw(rows: Dataset, amount: int | None, seed: int) -> Dataset:
    if amount is None or amount >= len(rows):
        return rows
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))[:amount]
    return rows.select(np.sort(chosen))
