"""A checkpoint as a student that answers."""

from __future__ import annotations

from pathlib import Path

from pipeline.export.task_form import task_form
from pipeline.predict.cache import cache_of
from pipeline.predict.students import Student, no_head
from pipeline.store.checkpoints import open_checkpoint
from schemas.core.errors import ConfigError, DataError, ServiceError
from schemas.core.kinds import QuestionAnswering
from schemas.data.stage_data import TaskDataset, TaskMixture, longest_sequence
from schemas.data.tasks import AnyTask, BaseDocstringTask, FileTask
from stages.data.tasks.load import load_task
from stages.kinds.rows import TaskRows


def checkpoint_student(folder: Path, store: Path | None) -> Student:
    """Return the student of a checkpoint.

    Args:
        folder: the checkpoint.
        store: the store whose cache has the task's rows.

    Raises:
        CheckpointError: the folder is no checkpoint, or it is damaged.
        ConfigError: it has no head, or that of several tasks.
    """
    reference, manifest = open_checkpoint(folder)
    data = manifest.config.data
    if not manifest.labels and not manifest.config.objective.trains_task_head:
        raise no_head(str(folder), manifest.stage)
    if isinstance(data, TaskMixture):
        raise ConfigError(
            f"{folder} is a teacher of several tasks ({', '.join(data.tasks)}), with the answers of all of them: give "
            "a student of one of them"
        )
    assert isinstance(data, TaskDataset)
    form, remarks = task_form(data.task, None), _remarks(data.task)
    if _needs_rows(data.task):
        try:
            form = task_form(data.task, _rows(data.task, store))
        except (DataError, ServiceError, OSError):
            remarks += _unknown(data.task)
    path = Path(reference.path)
    return Student(
        name=str(path),
        folder=path / "model",
        form=form,
        labels=manifest.labels,
        max_length=longest_sequence(data),
        files={},
        remarks=remarks,
    )


def _needs_rows(task: AnyTask) -> bool:
    """Return True where the training rows tell something that the task leaves open."""
    is_open = isinstance(task, FileTask) and task.text_pair == "auto"
    return is_open or (isinstance(task.problem, QuestionAnswering) and task.problem.no_answer == "auto")


def _rows(task: AnyTask, store: Path | None) -> TaskRows:
    with cache_of(store) as cache:
        return load_task(task, cache, droppable=1)


def _unknown(task: AnyTask) -> tuple[str, ...]:
    if isinstance(task.problem, QuestionAnswering):
        return (
            "the training rows cannot be read any more, so that it is not known whether a question may have no "
            "answer: every question gets one",
        )
    return ()


def _remarks(task: AnyTask) -> tuple[str, ...]:
    if isinstance(task, BaseDocstringTask):
        return ()
    if task.marks:
        return (f"the task encloses spans in signs ({' '.join(task.marks[0].signs)}): write them into your texts",)
    blank = getattr(task.problem, "blank", None)
    return (f"the task fills blanks ({blank}): write ____ for the blank in question",) if blank else ()
