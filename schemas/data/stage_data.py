"""The text of a stage: a general corpus, a task, or several. Paths and ids only; nothing is opened here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.core.base import Frozen
from schemas.data.augmentation import Augmentation
from schemas.data.corpus import GeneralCorpus
from schemas.data.tasks import TaskData, describe_task


class TaskDataset(Frozen):
    """The labelled task as a stage's data."""

    kind: Literal["task_data"] = "task_data"
    task: TaskData
    """The task."""
    augmentation: Augmentation | None = None
    """Copies of its training rows that are read too; null for none."""


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
            return describe_task(data.task) + (", augmented" if data.augmentation else "")
        case TaskMixture():
            return " + ".join(data.tasks)
