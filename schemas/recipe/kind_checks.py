"""Checks of a recipe's other parts against the kind of its task."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.core.kinds import Classification, Embedding, Regression
from schemas.core.metrics import check_metrics
from schemas.core.training import Selection
from schemas.core.wording import KeyPath
from schemas.data.tasks import AnyTask
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, TaskObjective
from schemas.recipe.parts import RecipeParts
from schemas.recipe.teacher import FineTune

_BY_SIMILARITY = ("pearson", "spearman", "pearson_spearman")

Mistake = tuple[KeyPath, object, str]
"""Path in the recipe, the value there, and what is wrong with it."""


def task_checks(recipe: RecipeParts, path: KeyPath, task: AnyTask) -> Iterator[Mistake]:
    """Yield the mistakes between a recipe and one of its tasks.

    Args:
        recipe: the recipe.
        path: path of the task in the recipe.
        task: the task.
    """
    if isinstance(task.problem, Embedding):
        yield from _without_labels(recipe, (*path, "problem"))
    if recipe.teacher.weighting == "confidence" and not isinstance(task.problem, Classification):
        reason = (
            f"teachers are weighted by their confidence in a row's class, which a {task.problem.kind} task lacks; set "
            "teacher.weighting to fixed"
        )
        yield ("teacher", "weighting"), "confidence", reason
    yield from _unsuited_scores(recipe, task)


def _without_labels(recipe: RecipeParts, path: KeyPath) -> Iterator[Mistake]:
    """Vectors are learned from the teacher's vectors: there are no labels."""
    if isinstance(recipe.teacher.task_model, FineTune):
        reason = (
            "an embedding task has no labels to fine-tune a teacher on; name a sentence encoder: "
            "teacher.task_model={kind: given, model: …}"
        )
        yield ("teacher", "task_model"), "fine_tune", reason
    for index, stage in enumerate(recipe.stages):
        objective = stage.objective
        if isinstance(objective, TaskObjective) and objective.hard_label is not None:
            label_path: KeyPath = ("stages", index, "objective", "hard_label")
            reason = "an embedding task has no labels; set it to null"
            yield label_path, objective.hard_label.weight, reason
    if "hard_labels" in recipe.baselines:
        reason = "an embedding task has no labels for the baseline hard_labels; leave it out"
        yield ("baselines",), list(recipe.baselines), reason


def augmentation_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Yield stages that read augmented rows that are not made, and kinds of tasks that cannot be augmented."""
    reading = [(index, stage.name) for index, stage in enumerate(recipe.stages) if stage.data == "augmented_task_data"]
    for index, name in reading:
        if recipe.augmentation is None:
            reason = f"stage {name} reads augmented rows; configure them, such as {{copies: 20}}"
            yield ("augmentation",), None, reason
        if recipe.teacher.weighting == "confidence":
            reason = (
                "augmented rows have no labels, so the teachers' confidence in them is unknown; set "
                "teacher.weighting to fixed, or data to task_data"
            )
            yield ("stages", index, "data"), "augmented_task_data", reason
        for task in (recipe.task, *(recipe.tasks or {}).values()):
            why = None if task is None else task.problem.why_not_copied
            if task is not None and why is not None:
                reason = f"the answers of a {task.problem.kind} task are {why}; set data to task_data"
                yield ("stages", index, "data"), "augmented_task_data", reason
    if recipe.augmentation is not None and not reading:
        reason = "no stage reads its rows; set data of a task stage to augmented_task_data, or leave it out"
        yield ("augmentation",), recipe.augmentation.copies, reason


def mixture_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Yield tasks that cannot share a teacher's output layer, and scores that they do not have in common."""
    multi = recipe.teacher.multi_task
    if multi is None:
        return
    for name, task in multi.tasks.items():
        if not isinstance(task.problem, Classification | Regression):
            reason = (
                "a multi-task teacher predicts a class or a value for each task, and a "
                f"{task.problem.kind} task needs more; leave it out"
            )
            yield ("teacher", "multi_task", "tasks", name), task.problem.kind, reason
    selection = multi.training.selection
    if selection is not None and selection.metric is not None:
        path = ("teacher", "multi_task", "training", "selection", "metric")
        reason = "several tasks are judged by the mean of their main scores; leave metric out"
        yield path, selection.metric, reason


def selection_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Yield stages whose weights cannot be selected by a score, because they do not answer a task."""
    for index, stage in enumerate(recipe.stages):
        if stage.training.selection is None:
            continue
        if isinstance(stage.objective, LatentObjective | MaskedLanguageObjective):
            reason = (
                f"stage {stage.name} predicts no answers that could be scored; leave selection out, and its last "
                "weights are kept"
            )
            yield ("stages", index, "training", "selection"), stage.name, reason


def head_first_checks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Yield stages that are to train their head first and have none, or none that could learn alone."""
    for index, stage in enumerate(recipe.stages):
        if stage.training.head_first is None:
            continue
        path: KeyPath = ("stages", index, "training", "head_first")
        share = stage.training.head_first.share
        if isinstance(stage.objective, LatentObjective):
            reason = f"stage {stage.name} has no head: its objective compares what the body computes; leave it out"
            yield path, share, reason
        elif isinstance(stage.objective, MaskedLanguageObjective):
            reason = f"the head of stage {stage.name} is the table of words, which is part of the body; leave it out"
            yield path, share, reason
        elif any(isinstance(task.problem, Embedding) for task in (recipe.task, *(recipe.tasks or {}).values()) if task):
            reason = "the vectors of an embedding task are the body's own states, so there is no head; leave it out"
            yield path, share, reason


def selections(recipe: RecipeParts) -> Iterator[tuple[KeyPath, Selection]]:
    """Return the selections of stages and fine-tunings that learn the task, by path."""
    paths: dict[KeyPath, Selection | None] = {
        ("stages", index, "training", "selection"): stage.training.selection
        for index, stage in enumerate(recipe.stages)
        if isinstance(stage.objective, TaskObjective)
    }
    teachers: dict[KeyPath, object] = {("teacher",): recipe.teacher.task_model}
    for number, other in enumerate(recipe.teacher.others):
        teachers["teacher", "others", number] = other.task_model
    for path, task_model in teachers.items():
        if isinstance(task_model, FineTune):
            selection_path = (*path, "task_model", "training", "selection")
            paths[selection_path] = task_model.training.selection
    return ((path, selection) for path, selection in paths.items() if selection is not None)


def _unsuited_scores(recipe: RecipeParts, task: AnyTask) -> Iterator[Mistake]:
    """Yield selections by scores that do not suit the task."""
    for path, selection in selections(recipe):
        try:
            check_metrics([selection.metric or task.main_metric], task.problem.kind)
        except ValueError as error:
            yield (*path, "metric"), selection.metric, str(error)
            continue
        by_similarity = (selection.metric or task.main_metric) in _BY_SIMILARITY
        if isinstance(task.problem, Embedding) and selection.rows == "held_out" and by_similarity:
            reason = (
                "training rows of an embedding task have no similarity scores; set metric to "
                "similarity_spearman, or rows to validation"
            )
            yield (*path, "rows"), "held_out", reason
