"""Labelled data: its location, its columns, the kind of task, and the scores of answers."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from schemas.core.base import Frozen, parse_kind
from schemas.core.kinds import (
    Classification,
    Column,
    MultiLabel,
    MultipleChoice,
    ParsedKind,
    QuestionAnswering,
    TokenClassification,
)
from schemas.core.metrics import MetricName, check_metrics, metrics_of
from schemas.core.part_names import FurtherRows
from schemas.core.refs import HubId, Revision
from schemas.data.catalogue import catalogue, did_you_mean, named_task
from schemas.data.file_format import FileFormat

_PERCENT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")


def _as_label(value: Any) -> Any:
    """Turn `1` and `true`, which YAML does not read as text, into labels as they are read from rows."""
    return str(value).lower() if isinstance(value, int) else value


MaxLength = Annotated[int, Field(ge=4, le=8192)]
Sign = Annotated[str, Field(min_length=1, max_length=16)]
PositiveLabel = Annotated[str, BeforeValidator(_as_label), Field(min_length=1)]


class _Task(Frozen):
    problem: ParsedKind = Classification()
    """Kind of the task."""
    max_length: MaxLength = 128
    """Longest sequence in tokens; longer text is truncated, and a longer context is read in several windows."""
    metric: MetricName | None = None
    """Main score; null for the default of the kind, such as accuracy, entity_f1 or squad_f1."""
    positive_label: PositiveLabel | None = None
    """Class of `f1` and `accuracy_f1`; null for the rarer of two classes, if it has at most 40 % of the training rows.
    These scores require it if neither class is that rare, or there are more than two."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    """Label names in the order of the classes; rows hold the names, or their numbers from 0. Null for the names in the
    training rows, sorted."""
    max_train_rows: int | None = Field(default=None, ge=2)
    """Most training rows, drawn by class with the seed; null for all."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draw of rows."""

    @property
    def main_metric(self) -> MetricName:
        """The score that tables show and that selects the best model."""
        return self.metric or metrics_of(self.problem.kind)[0]

    @model_validator(mode="after")
    def _labels_differ(self) -> _Task:
        if self.labels and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a name is listed twice; give every class a different name")
        if self.labels and not self.problem.has_label_names:
            raise ValueError(f"labels: a {self.problem.kind} task has none; leave them out")
        return self

    @model_validator(mode="after")
    def _metric_suits(self) -> _Task:
        if self.metric is not None:
            check_metrics([self.metric], self.problem.kind)
        return self

    @model_validator(mode="after")
    def _positive_label_is_a_class(self) -> _Task:
        if self.positive_label is None:
            return self
        if not isinstance(self.problem, Classification):
            raise ValueError(f"positive_label: a {self.problem.kind} task has no score about one class; leave it out")
        if self.labels and self.positive_label not in self.labels:
            raise ValueError(f"positive_label: {self.positive_label!r} is not one of labels: {', '.join(self.labels)}")
        return self

    @model_validator(mode="after")
    def _room_for_a_context(self) -> _Task:
        if isinstance(self.problem, QuestionAnswering):
            room = self.max_length - min(self.problem.max_question_tokens, self.max_length) - 8
            if room <= self.problem.stride:
                raise ValueError(
                    f"problem.stride: {self.problem.stride} tokens are shared by two windows, but max_length "
                    f"{self.max_length} and max_question_tokens {self.problem.max_question_tokens} leave about {room} "
                    "for the context; lower the stride or the question, or raise max_length"
                )
        return self


class BaseDocstringTask(_Task):
    """A task whose rows come from the docstrings of installed libraries."""

    problem: Annotated[Classification, BeforeValidator(parse_kind)] = Classification()
    """Fixed by the task."""
    libraries: tuple[str, ...] = Field(
        default=(
            "matplotlib",
            "mlflow",
            "numpy",
            "pandas",
            "prefect",
            "scipy",
            "sklearn",
            "sqlalchemy",
            "stdlib",
            "sympy",
            "torch",
            "transformers",
        ),
        min_length=2,
    )
    """Import names of the libraries; `stdlib` is Python's standard library."""
    validation_ratio: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of each library's modules whose rows are validation rows."""
    max_validation_rows: int = Field(default=1500, ge=2)
    """Most validation rows, drawn with the seed."""


class DocstringTask(BaseDocstringTask):
    """Classify docstring paragraphs by library; names of libraries are masked, and the split is by modules."""

    kind: Literal["docstrings"] = "docstrings"


class DocstringPairTask(BaseDocstringTask):
    """Tell whether a docstring's first sentence describes a function or another one of the same module."""

    kind: Literal["docstring_pairs"] = "docstring_pairs"


class Mark(Frozen):
    """A span of a text that is enclosed in two signs, such as the mentions of a coreference task."""

    text: str = Field(min_length=1)
    """Column of the span's text; a dot leads into an object, such as target.span1_text."""
    start: str = Field(min_length=1)
    """Column of the index of its first character in the text, from 0."""
    signs: tuple[Sign, Sign] = ("_", "_")
    """Signs before and after the span."""


class _ColumnTask(_Task):
    """A task whose rows have named columns."""

    label: Column | Annotated[tuple[Column, ...], Field(min_length=2, max_length=4096)] = "label"
    """Column of the label, the tags, the answers, the right choice, or the similarity of pairs; for a multi_label task
    also the columns of its labels, which hold 0 or 1."""
    marks: tuple[Mark, ...] = Field(default=(), max_length=8)
    """Spans of the text that are enclosed in signs."""

    @property
    def label_column(self) -> str:
        """The column of labels, for all kinds but multi_label."""
        assert isinstance(self.label, str)
        return self.label

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The column of labels, or the columns."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @model_validator(mode="after")
    def _several_columns_are_several_labels(self) -> _ColumnTask:
        if isinstance(self.label, str):
            return self
        if not isinstance(self.problem, MultiLabel):
            raise ValueError(
                f"label: {len(self.label)} columns are named, but a {self.problem.kind} task has one column of labels; "
                "name one, or set problem to multi_label"
            )
        if len(set(self.label)) != len(self.label):
            raise ValueError("label: a column is named twice; name each label's column once")
        return self

    @model_validator(mode="after")
    def _marks_stand_in_a_text(self) -> _ColumnTask:
        if self.marks and isinstance(self.problem, TokenClassification):
            raise ValueError(
                "marks: the text of a token_classification task is a list of words, which has no character positions; "
                "leave them out"
            )
        if self.marks and isinstance(self.problem, MultipleChoice) and self.problem.blank:
            raise ValueError(
                "marks: problem.blank makes a row of every blank, with other character positions; leave one of the two "
                "out"
            )
        return self


class FileTask(_ColumnTask):
    """Labelled rows in local files: .jsonl, .json, .csv, .tsv, .parquet, or .conll and .txt for tagged words."""

    kind: Literal["files"] = "files"
    train: str = Field(min_length=1)
    """File of training rows."""
    validation: str = Field(min_length=1)
    """File of validation rows, or a share of the training rows to take out for it, such as `10 %`: drawn by class with
    the task's seed, rows of equal text together."""
    more_validation: FurtherRows = Field(default_factory=dict, max_length=8)
    """Files of further validation rows by name, each scored separately."""
    text: str = "text_a"
    """Column of the text, a pair's first text, the question, or the list of words; lists of texts are joined by spaces,
    and a dot leads into an object."""
    text_pair: str | None = None
    """Column of a pair's second text, or of the context; null for single texts. auto: text_b if the training file has
    it; the text is then the column text if there is no text_a."""
    format: FileFormat = FileFormat()
    """Format of the files, if they do not show it."""

    @field_validator("validation")
    @classmethod
    def _takes_some_rows(cls, value: str) -> str:
        if (percent := _PERCENT.match(value)) and not 0 < float(percent[1]) <= 50:
            raise ValueError(f"{value} of the training rows; give more than 0 % and at most 50 %, or a file")
        return value

    @property
    def validation_share(self) -> float | None:
        """Share of the training rows that are validation rows instead; None where these have a file."""
        percent = _PERCENT.match(self.validation)
        return float(percent[1]) / 100 if percent else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The named columns: text, labels, and all others."""
        named = [self.text, *self.label_columns]
        if self.text_pair is not None and self.text_pair != "auto":
            named.append(self.text_pair)
        named += self.problem.columns
        named += [column for mark in self.marks for column in (mark.text, mark.start)]
        return tuple(dict.fromkeys(named))


class HubTask(_ColumnTask):
    """A labelled data set of the Hugging Face hub, or of its local cache."""

    kind: Literal["hub"] = "hub"
    id: HubId
    """Repository, such as `nyu-mll/glue`."""
    config: str | None = None
    """Configuration name, such as `sst2`."""
    revision: Revision = "main"
    """Branch, tag or commit."""
    train_split: str = "train"
    """Split of the training rows."""
    validation_split: str = "validation"
    """Split of the validation rows."""
    more_validation: FurtherRows = Field(default_factory=dict, max_length=8)
    """Splits of further validation rows by name, each scored separately."""
    text: str = "sentence"
    """Column of the text, a pair's first text, the question, or the list of words; lists of texts are joined by spaces,
    and a dot leads into an object."""
    text_pair: str | None = None
    """Column of a pair's second text, or of the context; null for single texts."""


def parse_task(value: Any) -> Any:
    """Expand `docstrings`, `docstring_pairs`, a name of the catalogue (`sst2`, `clue/tnews`), or a task folder."""
    if not isinstance(value, str):
        return value
    if value in ("docstrings", "docstring_pairs"):
        return {"kind": value}
    if value.startswith(("/", "./", "../", "~")):
        folder = value.rstrip("/")
        return {
            "kind": "files",
            "train": f"{folder}/train.*",
            "validation": f"{folder}/validation.*",
            "text_pair": "auto",
        }
    if (named := named_task(value)) is not None:
        return named
    names = ", ".join(catalogue().tasks)
    raise ValueError(
        f"{value!r} is no task{did_you_mean(value)}; give docstrings, docstring_pairs, a task by name ({names}), a "
        "folder with train and validation files (starting with / ./ ../ or ~), or a mapping with kind: files or hub"
    )


# Fields that identify the data of a task: while they stay the same, all other fields still apply.
_SOURCE = {"docstrings": (), "docstring_pairs": (), "files": ("train", "validation"), "hub": ("id", "config")}


def task_named(before: Any, short: str) -> dict[str, Any]:
    """Return the mapping of a short form that replaces a recipe's task and inherits what still applies.

    The new task inherits everything if it is the same data; length, row limit and seed if it is other data of the same
    kind; otherwise only the length, which depends on the models as much as on the data.

    Args:
        before: the recipe's task: a mapping, or a short form.
        short: such as `docstrings`, `sst2` or `./folder`.

    Raises:
        ValueError: there is no such short form.
    """
    named: dict[str, Any] = parse_task(short)
    try:
        before = parse_task(before)
    except ValueError:
        return named
    if not isinstance(before, dict):
        return named
    kind = named["kind"]
    if before.get("kind") != kind:
        kept = ["max_length"]
    elif all(before.get(key) == named.get(key) for key in _SOURCE[kind]):
        return {**named, **before}
    else:
        kept = ["max_length", "max_train_rows", "seed"]
    # The new task's fields win: contexts of several hundred tokens need more than the length of sentences.
    return {**{key: before[key] for key in kept if key in before}, **named}


AnyTask = DocstringTask | DocstringPairTask | FileTask | HubTask
TaskData = Annotated[AnyTask, Field(discriminator="kind"), BeforeValidator(parse_task)]


_PART_OF_DATA = re.compile(r"(train|training|trn|data|dataset|part|shard|split|full|all)([-_\d].*)?$|\d*$", re.I)


def describe_task(task: AnyTask) -> str:
    """Return a short name for tables: `docstrings`, `glue/sst2`, or that of a training file or of its folder.

    A file that is called by its part of the data, such as `train.csv`, goes by its folder.
    """
    match task:
        case BaseDocstringTask():
            return task.kind
        case HubTask():
            return f"{task.id.split('/')[-1]}/{task.config}" if task.config else task.id
        case FileTask():
            folder, _, file = task.train.replace("\\", "/").rstrip("/").rpartition("/")
            if folder.rpartition("/")[2] in (".", "..", "~") or not (folder or task.train[0] == "/"):
                folder = os.path.abspath(os.path.expanduser(folder or "."))
            stem = file.partition(".")[0]
            is_part = _PART_OF_DATA.match(stem) or "*" in file
            return (folder.rpartition("/")[2] or file) if is_part else stem
