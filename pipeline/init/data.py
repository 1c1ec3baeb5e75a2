"""A person's file or folder of labelled rows, read as a run would read it, and the task that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerFast

from pipeline.init.columns import Columns, find_columns
from schemas.core.errors import ConfigError, DataError
from schemas.core.paths import local_path
from schemas.data.file_format import FileFormat
from schemas.data.tasks import FileTask
from stages.data.files.file_names import CONLL_FORMATS, file_format, resolve_file
from stages.data.files.read_request import Reading
from stages.data.formats.conll import has_sentences
from stages.data.readers.files import read_file
from stages.data.readers.squad import is_squad
from stages.kinds.rows import TaskRows

SHARE = "10 %"
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_SQUAD = Columns("question", "answers", "question_answering", "context")
_WORDS = Columns("tokens", "tags", "token_classification")
_SAMPLE = 2000


@dataclass(frozen=True)
class Source:
    """The files of a task."""

    train: str
    """Path as it is written in the recipe."""
    validation: str
    """Path, or a share of the training rows."""
    encoding: str | None = None

    @property
    def format(self) -> FileFormat:
        """Format of the files."""
        try:
            return FileFormat.model_validate({"encoding": self.encoding})
        except ValidationError as error:
            allowed = error.errors()[0].get("ctx", {}).get("expected", "")
            raise ConfigError(f"--encoding {self.encoding}: is not known; give {allowed}") from None

    def task(self, columns: Columns, max_length: int) -> dict[str, Any]:
        """Return the task as in a recipe, without what its defaults say."""
        fields: dict[str, Any] = {"kind": "files", "train": self.train, "validation": self.validation}
        if columns.problem != "classification":
            fields["problem"] = columns.problem
        fields |= {
            "text": columns.text,
            "label": list(columns.label) if isinstance(columns.label, tuple) else columns.label,
        }
        if columns.text_pair:
            fields["text_pair"] = columns.text_pair
        if self.encoding:
            fields["format"] = {"encoding": self.encoding}
        return fields | {"max_length": max_length}


def source_of(data: str, validation: str | None, encoding: str | None) -> Source:
    """Return the files that a path means: a file, or a folder with train and perhaps validation files.

    Raises:
        DataError: there is no such file.
    """
    path, given = local_path(data, "DATA"), data.rstrip("/")
    if not path.is_dir():
        resolve_file(data, "DATA")
        return Source(data, validation or SHARE, encoding)
    resolve_file(f"{given}/train.*", "DATA")
    if validation is None:
        try:
            resolve_file(f"{given}/validation.*", "DATA")
            validation = f"{given}/validation.*"
        except DataError:
            validation = SHARE
    return Source(f"{given}/train.*", validation, encoding)


def read_rows(source: Source, cache: Path) -> tuple[Path, Dataset | None]:
    """Return the training file, and its rows with all columns; None for formats whose columns are known."""
    path, reading = resolve_file(source.train, "DATA"), Reading(format=source.format)
    suffix = file_format(path, "DATA")
    if suffix in CONLL_FORMATS or is_squad(path) or (suffix == ".txt" and has_sentences(path, reading)):
        return path, None
    if suffix == ".txt":
        raise DataError(
            f"DATA: {path} holds lines of text without labels; give labelled rows (.csv, .tsv, .jsonl, .parquet), and "
            f"this file as --corpus {path}"
        )
    return path, read_file(path, cache, "DATA", reading).rows


def columns_of(path: Path, rows: Dataset | None, wanted: Mapping[str, str | None]) -> Columns:
    """Return the columns of a task, as far as they are not wanted otherwise."""
    if rows is None:
        return _SQUAD if is_squad(path) else _WORDS
    return find_columns(rows, f"DATA: {path}", **wanted)


def file_task(fields: dict[str, Any]) -> FileTask:
    """Return the task of a mapping.

    Raises:
        ConfigError: a value of it is not allowed.
    """
    try:
        return TypeAdapter(FileTask).validate_python(fields)
    except ValidationError as error:
        reasons = [str(details.get("ctx", {}).get("error", details["msg"])) for details in error.errors()]
        raise ConfigError([f"task: {reason}" for reason in reasons]) from None


@dataclass(frozen=True)
class Lengths:
    """Lengths of a task's rows in tokens, and how well the vocabulary fits them."""

    max_length: int
    """Smallest usual length that 95 % of the rows fit into."""
    longest: int
    unknown: float
    """Share of tokens that the vocabulary does not know."""


def measure_lengths(rows: TaskRows, tokenizer: PreTrainedTokenizerFast, most: int) -> Lengths:
    """Measure some training rows; `most` is the longest sequence that the teacher reads."""
    sample = rows.train.select(range(0, len(rows.train), max(1, len(rows.train) // _SAMPLE)))
    is_words = "words" in sample.column_names
    second = sample["text_pair"] if "text_pair" in sample.column_names else None
    encoded = tokenizer(
        list(sample["words" if is_words else "text"]),
        None if second is None else list(second),
        is_split_into_words=is_words,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    lengths = np.array([len(ids) for ids in encoded])
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in encoded) if tokenizer.unk_token_id is not None else 0
    usual = next((length for length in LENGTHS if length >= np.percentile(lengths, 95)), LENGTHS[-1])
    return Lengths(min(usual, most), int(lengths.max()), unknown / max(1, int(lengths.sum())))
