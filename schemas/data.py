"""The text: a general corpus without labels, and a labelled task. Paths and ids only; nothing is opened here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from schemas.base import Frozen
from schemas.refs import HubId, Revision

MaxLength = Annotated[int, Field(ge=4, le=8192)]


class DocstringText(Frozen):
    """English paragraphs of the docstrings of everything installed in this Python environment."""

    kind: Literal["docstrings"] = "docstrings"
    validation_ratio: float = Field(default=0.15, ge=0, lt=0.9)
    """Leave out the modules that a docstring task with this ratio validates on; 0 keeps all."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """The docstring task's seed, which chooses those modules."""


class FileText(Frozen):
    """Local files: .jsonl, .json, .csv, .tsv, .parquet or .txt (a row a line), plain or .gz."""

    kind: Literal["files"] = "files"
    paths: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Files; a relative path starts at the working directory."""
    column: str = "text"
    """Column that holds the text (a .txt file has none)."""


class HubText(Frozen):
    """A data set of the Hugging Face hub, or of its local cache."""

    kind: Literal["hub"] = "hub"
    id: HubId
    """Repository, such as `wikimedia/wikipedia`."""
    config: str | None = None
    """Configuration name, such as `20231101.en`."""
    revision: Revision = "main"
    """Branch, tag or commit."""
    split: str = "train"
    """Which split."""
    column: str = "text"
    """Column that holds the text."""


TextSource = Annotated[DocstringText | FileText | HubText, Field(discriminator="kind")]


class GeneralCorpus(Frozen):
    """Running text without labels."""

    kind: Literal["general_corpus"] = "general_corpus"
    sources: tuple[TextSource, ...] = Field(min_length=1)
    """Where the text comes from; all sources together are shuffled."""
    max_length: MaxLength = 128
    """Longest sequence in tokens; longer text is cut into several."""
    max_rows: int | None = Field(default=None, ge=1)
    """Use at most so many rows, drawn with the seed; null for all."""
    held_out_rows: int = Field(default=512, ge=1, le=100_000)
    """Rows kept out of training, to measure the latent loss on."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draw of rows and the split."""


class _Task(Frozen):
    max_length: MaxLength = 128
    """Longest sequence in tokens; longer text is cut off."""
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"
    """Score of the task: accuracy, F1 of the second label, or Matthews correlation."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    """Label names in the order of the classes; null takes them from the training rows, sorted."""
    max_train_rows: int | None = Field(default=None, ge=2)
    """Use at most so many training rows, drawn with the seed; null for all."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draw of rows."""

    @model_validator(mode="after")
    def _labels_differ(self) -> _Task:
        if self.labels and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a name is listed twice; give each class one name of its own")
        return self


class DocstringTask(_Task):
    """Tell which library a docstring paragraph documents; libraries' names are masked, modules are split."""

    kind: Literal["docstrings"] = "docstrings"
    libraries: tuple[str, ...] = Field(
        default=("matplotlib", "mlflow", "numpy", "pandas", "prefect", "scipy", "sklearn",
                 "sqlalchemy", "stdlib", "sympy", "torch", "transformers"),
        min_length=2,
    )  # fmt: skip
    """Import names of the libraries to tell apart; `stdlib` is Python's own library."""
    validation_ratio: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of each library's modules whose paragraphs are for validation only."""
    max_validation_rows: int = Field(default=1500, ge=2)
    """Validate on at most so many rows, drawn with the seed."""


class FileTask(_Task):
    """Labelled rows in local files: .jsonl, .json, .csv, .tsv or .parquet, plain or .gz."""

    kind: Literal["files"] = "files"
    train: str = Field(min_length=1)
    """File of training rows."""
    validation: str = Field(min_length=1)
    """File of validation rows."""
    text: str = "text_a"
    """Column of the text (of the first text of a pair)."""
    text_pair: str | None = None
    """Column of the second text of a pair; null for single texts; auto for text_b where the training file has it."""
    label: str = "label"
    """Column of the label."""


class HubTask(_Task):
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
    text: str = "sentence"
    """Column of the text (of the first text of a pair)."""
    text_pair: str | None = None
    """Column of the second text of a pair; null for single texts."""
    label: str = "label"
    """Column of the label."""


# Columns of GLUE's classification tasks as nyu-mll/glue publishes them, and the metric GLUE scores each by.
GLUE: dict[str, dict[str, str]] = {
    "cola": {"text": "sentence", "metric": "matthews"},
    "mnli": {
        "text": "premise",
        "text_pair": "hypothesis",
        "validation_split": "validation_matched",
    },
    "mrpc": {"text": "sentence1", "text_pair": "sentence2", "metric": "f1"},
    "qnli": {"text": "question", "text_pair": "sentence"},
    "qqp": {"text": "question1", "text_pair": "question2", "metric": "f1"},
    "rte": {"text": "sentence1", "text_pair": "sentence2"},
    "sst2": {"text": "sentence"},
    "wnli": {"text": "sentence1", "text_pair": "sentence2"},
}


def _parse_task(value: Any) -> Any:
    """`docstrings`, a GLUE task (`sst2` or `glue/sst2`), or a folder with train and validation files."""
    if not isinstance(value, str):
        return value
    if value == "docstrings":
        return {"kind": "docstrings"}
    glue = value.removeprefix("glue/")
    if glue in GLUE:
        return {"kind": "hub", "id": "nyu-mll/glue", "config": glue, **GLUE[glue]}
    if value.startswith(("/", "./", "../", "~")):
        folder = value.rstrip("/")
        return {
            "kind": "files",
            "train": f"{folder}/train.jsonl*",
            "validation": f"{folder}/validation.jsonl*",
            "text_pair": "auto",
        }
    raise ValueError(
        f"{value!r} is no task; give docstrings, a GLUE task ({', '.join(sorted(GLUE))}), a folder with train and "
        "validation files (starting with / ./ ../ or ~), or a mapping with kind: files or kind: hub"
    )


# Which data a task is: while these stay the same, all that a recipe says of the task still holds.
_SOURCE = {"docstrings": (), "files": ("train", "validation"), "hub": ("id", "config")}


def task_named(before: Any, short: str) -> dict[str, Any]:
    """The mapping of a task's short form, put in the place of a recipe's task.

    What a recipe has settled about its task is kept as far as it can hold for the one named: all of it for the same
    data; for other data of the same kind the length, the row limit and their seed; for another kind the length alone,
    which is the models' as much as the data's.

    Args:
        before: the recipe's task: a mapping, or a short form itself.
        short: such as `docstrings`, `sst2` or `./folder`.

    Raises:
        ValueError: there is no such short form.
    """
    named: dict[str, Any] = _parse_task(short)
    try:
        before = _parse_task(before)
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
    return {**named, **{key: before[key] for key in kept if key in before}}


TaskData = Annotated[
    DocstringTask | FileTask | HubTask,
    Field(discriminator="kind"),
    BeforeValidator(_parse_task),
]


class TaskDataset(Frozen):
    """The labelled task as a stage's data."""

    kind: Literal["task_data"] = "task_data"
    task: TaskData
    """The task."""


class TaskMixture(Frozen):
    """Several labelled tasks as one stage's data: their rows together, their classes side by side."""

    kind: Literal["task_mixture"] = "task_mixture"
    tasks: dict[str, TaskData] = Field(min_length=2)
    """The tasks under the names that prefix their classes."""


Data = Annotated[GeneralCorpus | TaskDataset | TaskMixture, Field(discriminator="kind")]


def describe_data(data: GeneralCorpus | TaskDataset | TaskMixture) -> str:
    """A short name for tables: `general corpus`, a task's name, or the names of several."""
    match data:
        case GeneralCorpus():
            return "general corpus"
        case TaskDataset():
            return describe_task(data.task)
        case TaskMixture():
            return " + ".join(data.tasks)


def describe_task(task: DocstringTask | FileTask | HubTask) -> str:
    """A short name for tables: `docstrings`, `glue/sst2`, or the training file's folder."""
    match task:
        case DocstringTask():
            return "docstrings"
        case HubTask():
            return f"{task.id.split('/')[-1]}/{task.config}" if task.config else task.id
        case FileTask():
            parts = task.train.replace("\\", "/").rstrip("/").split("/")
            return parts[-2] if len(parts) > 1 else parts[-1]
