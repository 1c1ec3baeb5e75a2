"""What a task's kind asks of the other parts of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from schemas.objective import TaskObjective
from schemas.problems import Classification, Embedding
from schemas.teacher import FineTune

if TYPE_CHECKING:
    from schemas.recipe import Recipe
    from schemas.tasks import AnyTask

Place = tuple[str | int, ...]
Problem = tuple[Place, object, str]


def problem_checks(recipe: Recipe, place: Place, task: AnyTask) -> Iterator[Problem]:
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


def _without_labels(recipe: Recipe, place: Place) -> Iterator[Problem]:
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
            where: Place = ("stages", index, "objective", "hard_label")
            reason = "an embedding task has no labels; set it to null"
            yield where, objective.hard_label.weight, reason
    if "hard_labels" in recipe.baselines:
        reason = "an embedding task has no labels for the baseline hard_labels; leave it out"
        yield ("baselines",), list(recipe.baselines), reason


def mixture_checks(recipe: Recipe) -> Iterator[Problem]:
    """Tasks that cannot share one teacher's output layer."""
    if recipe.teacher.multi_task is None:
        return
    for name, task in recipe.teacher.multi_task.tasks.items():
        if not isinstance(task.problem, Classification):
            reason = f"a multi-task teacher learns classification tasks alone, and this is {task.problem.kind}; leave it out"
            yield ("teacher", "multi_task", "tasks", name), task.problem.kind, reason
