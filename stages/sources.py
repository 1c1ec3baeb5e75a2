"""From a task or a corpus in the config to rows, checked, drawn and split by the seed.

Everything that names a place (path, cache) stays out of the digests: a moved file is the same data.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from schemas.base import digest_of
from schemas.data import (
    DocstringTask,
    DocstringText,
    FileTask,
    FileText,
    GeneralCorpus,
    HubTask,
    HubText,
    TaskData,
    TextSource,
)
from schemas.errors import DataError
from schemas.yaml_text import printable
from stages.columns import has_column
from stages.docstrings import (
    corpus_paragraphs,
    docstring_digest,
    docstring_task_digest,
    docstring_task_rows,
    load_paragraphs,
)
from stages.files import (
    file_format,
    first_row,
    label_column,
    listed,
    offline,
    quiet,
    read_file,
    resolve_file,
    text_column,
)
from stages.whole import file_digest

# Raise when the same files should give other rows.
ROWS_VERSION = 1
HUB_TIMEOUT_SECONDS = 5.0
HUB_PATIENCE_SECONDS = 60.0
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
# What a hub branch was found to be, so that plan, load and digest of one process mean the same
# rows.
_commits: dict[tuple[str, str], str] = {}
# When each data set was last asked for in vain: a network that swallows packets costs one wait, not
# one a split.
_asked_in_vain: dict[tuple[str, str], float] = {}


@dataclass(frozen=True)
class TaskRows:
    """A labelled task: `text`, `text_pair` for pairs, and `label`, an index into `labels`."""

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class CorpusRows:
    """Running text in the column `text`; no text of `held_out` is in `train`."""

    train: Dataset
    held_out: Dataset
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
                split: _file_identity(path, f"task.{split}")
                for split, path in _task_files(task).items()
            }
        case HubTask():
            content = {"commit": hub_commit(task.id, task.revision) or task.revision}
        case _:
            assert_never(task)
    return digest_of({"config": config, "content": content, "version": ROWS_VERSION})


def corpus_digest(corpus: GeneralCorpus) -> str:
    """SHA-256 of what decides the rows of `corpus`: the content of each source, and the config."""
    config = corpus.model_dump(mode="json", exclude={"sources"})
    sources = [_source_identity(source) for source in corpus.sources]
    return digest_of({"config": config, "sources": sources, "version": ROWS_VERSION})


def _source_identity(source: TextSource) -> dict[str, object]:
    match source:
        case DocstringText():
            left_out = source.model_dump(mode="json", include={"validation_ratio", "seed"})
            return {"docstrings": docstring_digest(), **left_out}
        case FileText():
            files = [
                _file_identity(resolve_file(path, "data.sources"), "data.sources")
                for path in source.paths
            ]
            return {"files": files, "column": source.column}
        case HubText():
            commit = hub_commit(source.id, source.revision) or source.revision
            return source.model_dump(mode="json", exclude={"revision"}) | {"commit": commit}
        case _:
            assert_never(source)


def _file_identity(path: Path, where: str) -> dict[str, str]:
    return {"format": file_format(path, where), "sha256": file_digest(path)}


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


def load_corpus(corpus: GeneralCorpus, cache: Path) -> CorpusRows:
    """The text of all sources: `held_out_rows` drawn first, then up to `max_rows` of the rest.

    The held-out rows are thus the same whatever `max_rows` is. Blank rows are skipped.

    Raises:
        DataError: a source is not usable, or there are too few rows.
    """
    digest = corpus_digest(corpus)
    rows = datasets.concatenate_datasets([_text_of(source, cache) for source in corpus.sources])
    if len(rows) <= corpus.held_out_rows:
        raise DataError(
            f"data.sources: {len(rows)} rows of text in all, but data.held_out_rows keeps "
            f"{corpus.held_out_rows} from "
            "training; give more text or lower data.held_out_rows"
        )
    order = np.random.Generator(np.random.PCG64(corpus.seed)).permutation(len(rows))
    held_out = rows.select(np.sort(order[: corpus.held_out_rows]))
    rest = order[corpus.held_out_rows :]
    known = pa.array(held_out["text"][:], pa.string())
    repeated = np.concatenate(
        [pc.is_in(chunk, value_set=known).to_numpy(zero_copy_only=False) for chunk in _chunks(rows)]
    )
    rest = rest[~repeated[rest]][: corpus.max_rows]
    if len(rest) == 0:
        raise DataError(
            "data.sources: every row's text is among the held-out rows; give text that differs"
        )
    return CorpusRows(rows.select(np.sort(rest)), held_out, digest)


def _chunks(rows: Dataset) -> Iterator[pa.Array]:
    for table in rows.with_format("arrow").iter(batch_size=10_000):
        yield from table["text"].chunks


def _text_of(source: TextSource, cache: Path) -> Dataset:
    match source:
        case DocstringText():
            return corpus_paragraphs(source, load_paragraphs(cache))
        case FileText():
            parts = []
            for given in source.paths:
                path = resolve_file(given, "data.sources")
                rows = read_file(path, cache, "data.sources")
                column = "text" if file_format(path, "data.sources") == ".txt" else source.column
                parts.append(_without_blanks(rows, column, f"data.sources: {path}"))
            return datasets.concatenate_datasets(parts)
        case HubText():
            where = f"data.sources: {source.id}, split {source.split}"
            return _without_blanks(load_hub(source, source.split, where), source.column, where)
        case _:
            assert_never(source)


def _without_blanks(rows: Dataset, column: str, where: str) -> Dataset:
    text = text_column(rows, column, where, blank_allowed=True)
    blank = pc.equal(pc.utf8_trim_whitespace(text), "").to_numpy()
    rows = rows.select_columns(column)
    if blank.any():
        rows = rows.select(np.flatnonzero(~blank))
    if len(rows) == 0:
        raise DataError(
            f"{where}: column {column!r} is empty in every row; give a source with text"
        )
    rows = rows if column == "text" else rows.rename_column(column, "text")
    # Sources differ in what the same strings are called on disk; together they need one type.
    plain = datasets.Features({"text": datasets.Value("string")})
    return rows if rows.features == plain else rows.cast(plain)


def hub_commit(repository: str, revision: str) -> str | None:
    """The commit of `revision`, or the cached one when the hub is out of reach, or None."""
    if _COMMIT.match(revision):
        return revision
    if (repository, revision) not in _commits and (commit := _commit_by_hub(repository, revision)):
        _commits[repository, revision] = commit
    return _commits.get((repository, revision)) or _cached_commit(repository)


def _commit_by_hub(repository: str, revision: str) -> str | None:
    asked = _asked_in_vain.get((repository, revision), -HUB_PATIENCE_SECONDS)
    if constants.HF_HUB_OFFLINE or time.monotonic() - asked < HUB_PATIENCE_SECONDS:
        return None
    try:
        return HfApi().dataset_info(repository, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise DataError(
            f"{repository}: the hub has no data set of that name with revision {revision}, or it "
            "is not open to you; "
            "check id and revision, or give local files"
        ) from None
    except Exception:
        # Which exception means "no connection" depends on the HTTP client that huggingface_hub
        # brings.
        _asked_in_vain[repository, revision] = time.monotonic()
        return None


def _cached_commit(repository: str) -> str | None:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / repository.replace("/", "___")
    commits = [path for path in folder.glob("*/*/*") if _COMMIT.match(path.name)]
    return max(commits, key=lambda path: path.stat().st_mtime).name if commits else None


def load_hub(source: HubTask | HubText, split: str, where: str) -> Dataset:
    """One split of a hub data set, from the hub or from its local cache.

    Raises:
        DataError: the hub is out of reach and nothing is cached, or has no such config or split.
    """
    commit = hub_commit(source.id, source.revision)
    reachable = (source.id, source.revision) in _commits or _commit_by_hub(
        source.id, source.revision
    ) is not None
    if not reachable and _cached_commit(source.id) is None:
        raise DataError(
            f"{where}: the hub at {constants.ENDPOINT} cannot be reached and {source.id} is not "
            "in the local cache; "
            "give local files instead (kind: files, or for a task a folder with train.jsonl and "
            "validation.jsonl), or run where the hub is in reach"
        )
    with offline(not reachable):
        return load_repository(source.id, source.config, split, where, revision=commit)


def load_repository(
    place: str, config: str | None, split: str, where: str, *, revision: str | None = None
) -> Dataset:
    """One split of a data set repository, which may be a local folder laid out like the hub."""
    try:
        with quiet():
            rows = datasets.load_dataset(place, config, split=split, revision=revision)
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = " ".join(str(error).split())[:300]
        raise DataError(
            f"{where}: cannot be loaded ({cause}); check id, config and split"
        ) from None
    if len(rows) == 0:
        raise DataError(f"{where}: has no rows; take another split")
    return rows
