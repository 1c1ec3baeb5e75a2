"""Labelled rows of a task: read, checked, and drawn by the seed.

Paths and caches are not part of the digests: a moved file is the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from datasets import Dataset

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.core.kinds import TaskKind
from schemas.data.cards import DataLimits
from schemas.data.tasks import BaseDocstringTask, DocstringPairTask, FileTask, HubTask, TaskData, describe_task
from stages.data.files.file_names import is_test_split, resolve_file
from stages.data.files.read_request import Reading
from stages.data.formats.parquet import strings_in
from stages.data.readers import docstring_pairs
from stages.data.readers.docstrings import docstring_task_digest, docstring_task_rows, load_functions, load_paragraphs
from stages.data.readers.files import FileRows, file_identity, read_file
from stages.data.readers.first_reading import as_it_is_now, read_once
from stages.data.readers.header import has_column
from stages.data.readers.hub import hub_commit, load_hub
from stages.data.readers.row_lines import with_line
from stages.data.tasks.rows import checked_rows
from stages.data.tasks.split import split_rows
from stages.data.tasks.stratified import drawn_from
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.storage.format_versions import ROWS_VERSION

_TEXT = FileTask.model_fields["text"].default


def task_digest(task: TaskData) -> str:
    """Return the SHA-256 of everything that decides the rows: the files' bytes or the hub's commit, and the config."""
    return read_once("digest", task, lambda: _task_digest(task))


def _task_digest(task: TaskData) -> str:
    if isinstance(task, BaseDocstringTask):
        return docstring_task_digest(task)
    if isinstance(task, FileTask):
        task = _settled(task)
    config = task.model_dump(mode="json", exclude={"train", "validation", "more_validation", "revision"})
    content: dict[str, object]
    match task:
        case FileTask():
            content = {split: file_identity(path, f"task.{split}") for split, path in _task_files(task).items()}
            if task.validation_share is not None:
                content["validation"] = {"share": task.validation_share}
        case HubTask():
            content = {"commit": hub_commit(task.id, task.revision) or task.revision}
        case _:
            assert_never(task)
    return digest_of({"config": config, "content": content, "version": ROWS_VERSION})


def _settled(task: FileTask) -> FileTask:
    """Return the task with its columns named, so that it equals a task that names them itself."""
    if task.text_pair != "auto":
        return task
    train, reading = resolve_file(task.train, "task.train"), _reading(task)

    def has(column: str) -> bool:
        return has_column(train, column, "task.train", reading)

    settled: dict[str, str | None] = {"text_pair": "text_b" if has("text_b") else None}
    if task.text == _TEXT and not has(_TEXT) and has("text"):
        settled["text"] = "text"
    return task.model_copy(update=settled)


def _reading(task: FileTask) -> Reading:
    words = kind_of(task.problem).holds_words
    named = strings_in(task.model_dump())
    return Reading(task.columns, words=words, format=task.format, named=named)


def _task_files(task: FileTask) -> dict[str, Path]:
    named = {"train": task.train, "validation": task.validation}
    if task.validation_share is not None:
        del named["validation"]
    named |= {f"more_validation/{name}": path for name, path in task.more_validation.items()}
    return {split: resolve_file(path, f"task.{split}") for split, path in named.items()}


def load_task(task: TaskData, cache: Path, *, droppable: float = DataLimits().dropped) -> TaskRows:
    """Return the rows of `task` in the form of its kind, see `stages.kinds.rows`; all have text and a known label.

    Args:
        task: location and content of the rows.
        cache: folder of prepared data.
        droppable: largest share of a split's rows that may be left out because they have no text or no label; a limit
            that is kept does not change the rows.

    Raises:
        DataError: a file, a row or a data set cannot be used; with location and what to do.
    """
    return read_once(
        "rows", task, lambda: (_load_task(task, cache, droppable), droppable), fits=lambda kept: kept[1] <= droppable
    )[0]


def _load_task(task: TaskData, cache: Path, droppable: float) -> TaskRows:
    named, digest = task, task_digest(task)
    remarks: tuple[str, ...] = ()
    dropped: dict[str, int] = {}
    match task:
        case BaseDocstringTask():
            train, validation, labels = _docstring_rows(task, cache)
            more: dict[str, Dataset] = {}
        case FileTask() | HubTask():
            task = _settled(task) if isinstance(task, FileTask) else task
            raw, where = _read_splits(task, cache)
            if isinstance(named, FileTask) and task.text != named.text:
                remarks = (f"{where['train']}: column {task.text!r} is read; there is no {_TEXT!r}",)
            splits = {split: read.rows for split, read in raw.items()}
            try:
                checked = checked_rows(task, splits, where, droppable=droppable)
            except DataError as error:
                raise DataError(_with_line(str(error), task, where)) from None
            parts, labels = checked.splits, checked.labels
            remarks += (*(r for read in raw.values() for r in read.remarks), *checked.remarks)
            train, validation, split_remarks = _train_and_validation(task, parts, where["train"])
            remarks += split_remarks
            more = {_bare(name): rows for name, rows in parts.items()}
            dropped = {_bare(name): number for name, number in checked.dropped.items()}
        case _:
            assert_never(task)
    train = _draw(train, task.problem, task.max_train_rows, task.seed)
    kind = kind_of(task.problem)
    kind.check_drawn(train)
    with as_it_is_now():
        if task_digest(named) != digest:
            raise DataError(
                f"task: {describe_task(named)} changed while it was read; run again once nothing writes to it, or give "
                "a copy"
            )
    positive, positive_remarks = kind.positive_label(task, train, labels)
    remarks = (*remarks, *positive_remarks)
    return TaskRows(train, validation, labels, digest, task.problem, more, remarks, dropped, positive)


def _train_and_validation(
    task: FileTask | HubTask, parts: dict[str, Dataset], train_name: str
) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    """Take training and validation rows out of the checked splits; the latter may be a share of the former."""
    train = parts.pop("train")
    if isinstance(task, HubTask) or task.validation_share is None:
        return train, parts.pop("validation"), ()
    train, validation = split_rows(train, task.problem, task.validation_share, task.seed)
    remark = (
        f"task.validation: {task.validation} of {train_name.partition(': ')[2]}: {len(validation):,} rows, drawn by "
        "class with task.seed; rows of equal text are on one side"
    )
    return train, validation, (remark,)


def _with_line(message: str, task: FileTask | HubTask, where: Mapping[str, str]) -> str:
    """Return a message about a row of a file with the row's line."""
    if isinstance(task, FileTask):
        for split, path in _task_files(task).items():
            message = with_line(message, where[split], path, _reading(task))
    return message


def _bare(split: str) -> str:
    """Return the name of a split without `more_validation/`."""
    return split.rpartition("/")[2]


def _read_splits(task: FileTask | HubTask, cache: Path) -> tuple[dict[str, FileRows], dict[str, str]]:
    """Return every split as it was read, and the name of each split in messages."""
    raw: dict[str, FileRows] = {}
    where: dict[str, str] = {}
    if isinstance(task, FileTask):
        for split, path in _task_files(task).items():
            where[split] = f"task.{split}: {path}"
            rows = kind_of(task.problem).read_file(path, task, where[split])
            raw[split] = read_file(path, cache, f"task.{split}", _reading(task)) if rows is None else FileRows(rows)
            if split == "validation" and is_test_split(task.validation, path):
                remark = f"task.validation: {path}: the folder has no other validation rows than its test rows"
                raw[split] = replace(raw[split], remarks=(remark, *raw[split].remarks))
        return raw, where
    splits = {"train": task.train_split, "validation": task.validation_split}
    splits |= {f"more_validation/{name}": split for name, split in task.more_validation.items()}
    for split, name in splits.items():
        where[split] = f"task: {task.id}, split {name}"
        raw[split] = FileRows(load_hub(task, name, where[split]))
    return raw, where


def _docstring_rows(task: BaseDocstringTask, cache: Path) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    labels = task.labels or (docstring_pairs.LABELS if isinstance(task, DocstringPairTask) else task.libraries)
    if isinstance(task, DocstringPairTask):
        if labels != docstring_pairs.LABELS:
            raise DataError(f"task.labels: {', '.join(docstring_pairs.LABELS)}, in this order; leave it out")
        train, validation = docstring_pairs.docstring_pair_rows(task, load_functions(cache))
    else:
        if set(labels) != set(task.libraries):
            raise DataError("task.labels: must be the names of task.libraries, in any order; or leave it out")
        ordered = task.model_copy(update={"libraries": labels})
        train, validation = docstring_task_rows(ordered, load_paragraphs(cache))
    return train, _draw(validation, task.problem, task.max_validation_rows, task.seed), labels


def _draw(rows: Dataset, problem: TaskKind, amount: int | None, seed: int) -> Dataset:
    chosen = drawn_from(rows, problem, amount, seed=seed)
    return rows if len(chosen) == len(rows) else rows.select(chosen)
