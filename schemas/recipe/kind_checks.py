"""What a task's kind asks of the other parts of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from schemas.core.metrics import check_metrics
from schemas.core.training import Selection
from schemas.core.wording import KeyPath
from schemas.data.tasks import AnyTask
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, TaskObjective
from schemas.recipe.parts import RecipeParts
from schemas.recipe.teacher import FineTune

_OF_LIKENESS = ("pearson", "spearman", "pearson_spearman")

_PLACES = "places in the text, and copies have other words there"
_NOT_COPIED: dict[type, str] = {
    TokenClassification: _PLACES,
    QuestionAnswering: _PLACES,
    MultipleChoice: "texts themselves, and copies are made of the passage and the question alone",
}
"""Kinds of tasks whose rows are not copied with other words, and why."""

Mistake = tuple[KeyPath, object, str]
"""Path in the recipe, the value there, and what is wrong with it."""


def problem_checks(recipe: RecipeParts, place: KeyPath, task: AnyTask) -> Iterator[Mistake]:
    """What does not fit between a recipe and one of its tasks.

    Args:
        recipe: the recipe.
        place: where it names the task.
        task: the task.
    """
    if isinstance(task.problem, Embedding):
        yield from _without_labels(recipe, (*place, "problem"))
    if recipe.teacher.weighting == "confidence" and not isinstance(task.problem, Classification):
        reason = (
            f"teachers are weighed by how well they know a row's class, which a {task.problem.kind} task has not; set "
            "teacher.weighting to fixed"
        )
        yield ("teacher", "weighting"), "confidence", reason
    yield from _unsuited_scores(recipe, task)


def _without_labels(recipe: RecipeParts, place: KeyPath) -> Iterator[Mistake]:
    """Vectors are learned from the teacher's vectors: nobody has labelled them."""
    if isinstance(recipe.teacher.task_model, FineTune):
        reason = (
            "an embedding task has no labels that a teacher could be fine-tuned on; name the sentence encoder itself: "
            "teacher.task_model={kind: given, model: …}"
        )
        yield ("teacher", "task_model"), "fine_tune", reason
    for index, stage in enumerate(recipe.stages):
        objective = stage.objective
        if isinstance(objective, TaskObjective) and objective.hard_label is not None:
            where: KeyPath = ("stages", index, "objective", "hard_label")
            reason = "an embedding task has no labels; set it to null"
            yield where, objective.hard_label.weight, reason
    if "hard_labels" in recipe.baselines:
        reason = "an embedding task has no labels for the baseline hard_labels; leave it out"
        yield ("baselines",), list(recipe.baselines), reason


def augmentation_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Stages that read copies nobody makes, and kinds of tasks of which none can be made."""
    reading = [(index, stage.name) for index, stage in enumerate(recipe.stages) if stage.data == "augmented_task_data"]
    for index, name in reading:
        if recipe.augmentation is None:
            reason = f"stage {name} reads augmented rows; say how they are made, such as {{copies: 20}}"
            yield ("augmentation",), None, reason
        if recipe.teacher.weighting == "confidence":
            reason = (
                "copies have no labels, so no teacher's confidence in them is known; set teacher.weighting to fixed, "
                "or data to task_data"
            )
            yield ("stages", index, "data"), "augmented_task_data", reason
        for task in (recipe.task, *(recipe.tasks or {}).values()):
            why = None if task is None else _NOT_COPIED.get(type(task.problem))
            if task is not None and why is not None:
                reason = f"the answers of a {task.problem.kind} task are {why}; set data to task_data"
                yield ("stages", index, "data"), "augmented_task_data", reason
    if recipe.augmentation is not None and not reading:
        reason = "no stage reads its rows; set data of a task stage to augmented_task_data, or leave it out"
        yield ("augmentation",), recipe.augmentation.copies, reason


def mixture_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Tasks that cannot share one teacher's output layer, and scores that they have not in common."""
    multi = recipe.teacher.multi_task
    if multi is None:
        return
    for name, task in multi.tasks.items():
        if not isinstance(task.problem, Classification | Regression):
            reason = (
                "a multi-task teacher answers a text with a class or a value for each task, and a "
                f"{task.problem.kind} task asks for more; leave it out"
            )
            yield ("teacher", "multi_task", "tasks", name), task.problem.kind, reason
    selection = multi.training.selection
    if selection is not None and selection.metric is not None:
        place = ("teacher", "multi_task", "training", "selection", "metric")
        reason = "several tasks are judged by the mean of each one's main score; leave metric out"
        yield place, selection.metric, reason


def selection_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Stages whose weights cannot be chosen by a score, because nothing of theirs is an answer to a task."""
    for index, stage in enumerate(recipe.stages):
        if stage.training.selection is None:
            continue
        if isinstance(stage.objective, LatentObjective | MaskedLanguageObjective):
            reason = (
                f"stage {stage.name} gives no answers to a task that could be scored; leave selection out, its last "
                "weights are kept"
            )
            yield ("stages", index, "training", "selection"), stage.name, reason


def selections(recipe: RecipeParts) -> Iterator[tuple[KeyPath, Selection]]:
    """What chooses the weights of stages that learn the task, by its place."""
    places: dict[KeyPath, Selection | None] = {
        ("stages", index, "training", "selection"): stage.training.selection
        for index, stage in enumerate(recipe.stages)
        if isinstance(stage.objective, TaskObjective)
    }
    teachers: dict[KeyPath, object] = {("teacher",): recipe.teacher.task_model}
    for number, other in enumerate(recipe.teacher.others):
        teachers["teacher", "others", number] = other.task_model
    for place, task_model in teachers.items():
        if isinstance(task_model, FineTune):
            where = (*place, "task_model", "training", "selection")
            places[where] = task_model.training.selection
    return ((place, each) for place, each in places.items() if each is not None)


def _unsuited_scores(recipe: RecipeParts, task: AnyTask) -> Iterator[Mistake]:
    """Scores that a stage's weights are to be chosen by and that do not score the task."""
    for place, selection in selections(recipe):
        try:
            check_metrics([selection.metric or task.main_metric], task.problem.kind)
        except ValueError as error:
            yield (*place, "metric"), selection.metric, str(error)
            continue
        by_likeness = (selection.metric or task.main_metric) in _OF_LIKENESS
        if isinstance(task.problem, Embedding) and selection.rows == "held_out" and by_likeness:
            reason = (
                "training rows of an embedding task carry no likeness to be compared with; set metric to "
                "similarity_spearman, or rows to validation"
            )
            yield (*place, "rows"), "held_out", reason
