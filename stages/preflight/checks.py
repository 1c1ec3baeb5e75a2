"""Checks a recipe against the models and the data it names, before any long work, and says what it will cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from schemas.data.cards import DataCard
from schemas.recipe.recipe import Recipe
from schemas.recipe.student import StudentShape
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task
from stages.kinds.rows import TaskRows
from stages.models.encoders import shape_of
from stages.models.student import count_parameters
from stages.preflight.data_card import make_data_card
from stages.preflight.model_checks import check_given_teachers, check_models
from stages.preflight.score_checks import check_scores


@dataclass(frozen=True)
class Facts:
    """What the look at models and data found."""

    teacher: StudentShape
    student: StudentShape
    teacher_parameters: int
    student_parameters: int
    labels: tuple[str, ...]
    card: DataCard
    """What is read."""


def preflight(recipe: Recipe, cache: Path) -> Facts:
    """Look at everything the recipe names.

    Raises:
        ConfigError: the recipe does not fit the teacher; every problem at once.
        DataError: a model or a data set is missing or cannot be used as it is.
        ServiceError: a model hub is needed and cannot be reached.
    """
    models = check_models(recipe)
    rows, remarks = _look_at_data(recipe, cache)
    labels = rows.labels if rows is not None else ()
    if rows is not None:
        check_scores(recipe, rows)
    check_given_teachers(recipe, models, labels)
    shape = shape_of(models.teacher)
    return Facts(
        teacher=StudentShape(**{name: getattr(shape, name) for name in StudentShape.model_fields}),
        student=recipe.student.shape,
        teacher_parameters=count_parameters(models.teacher),
        student_parameters=count_parameters(models.student),
        labels=labels,
        card=_with_remarks(make_data_card(recipe, models.tokenizer, cache), remarks),
    )


def _with_remarks(card: DataCard, remarks: tuple[str, ...]) -> DataCard:
    """The card with how the task's files were read; it is not kept with them, since they name the files."""
    if card.task is None:
        return card
    task = card.task.model_copy(update={"remarks": remarks})
    return card.model_copy(update={"task": task})


def _look_at_data(recipe: Recipe, cache: Path) -> tuple[TaskRows | None, tuple[str, ...]]:
    """Read whatever the recipe trains on; the rows of its task, and how they and those of other tasks were read."""
    droppable, rows = recipe.limits.dropped, None
    remarks: dict[str, None] = {}
    if recipe.task is not None:
        rows = load_task(recipe.task, cache, droppable=droppable)
        remarks |= dict.fromkeys(rows.remarks)
    if recipe.teacher.multi_task is not None:
        for task in recipe.teacher.multi_task.tasks.values():
            other = load_task(task, cache, droppable=droppable)
            remarks |= dict.fromkeys(other.remarks)
    if recipe.general_corpus is not None:  # last, because it is the longest to read
        load_corpus(recipe.general_corpus, cache)
    return rows, tuple(remarks)
