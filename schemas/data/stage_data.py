"""Data of a stage: a general corpus, a task, or several tasks."""

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
    """Augmented copies of its training rows; null for none."""


class TaskMixture(Frozen):
    """Several labelled tasks as a stage's data, with their rows and classes combined."""

    kind: Literal["task_mixture"] = "task_mixture"
    tasks: dict[str, TaskData] = Field(min_length=2)
    """The tasks by the names that prefix their classes."""


Data = Annotated[GeneralCorpus | TaskDataset | TaskMixture, Field(discriminator="kind")]


def longest_sequence(data: GeneralCorpus | TaskDataset | TaskMixture) -> int:
    """Return the tokens at which the data's sequences are cut."""
    match data:
        case GeneralCorpus():
            return data.max_length
        case TaskDataset():
            return data.task.max_length
        case TaskMixture():
            return max(task.max_length for task in data.tasks.values())


def describe_data(data: GeneralCorpus | TaskDataset | TaskMixture) -> str:
    """Return a short name for tables: `general corpus`, or the names of the tasks."""
    match data:
        case GeneralCorpus():
            return "general corpus"
        case TaskDataset():
            return describe_task(data.task) + (", augmented" if data.augmentation else "")
        case TaskMixture():
            return " + ".join(data.tasks)
