"""Scores that could not be told, or would tell nothing: found in a task's rows before anything is trained."""

from __future__ import annotations

from schemas.core.errors import ConfigError, DataError
from schemas.recipe.kind_checks import selections
from schemas.recipe.recipe import Recipe
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows


def check_scores(recipe: Recipe, rows: TaskRows) -> None:
    """Refuse a recipe whose scores could not be told from its task's rows.

    Args:
        recipe: with a task.
        rows: the task's.

    Raises:
        ConfigError: weights are chosen by a score about one class, and it is not clear about which; or by entities, of
            which the task's tags are none.
        DataError: one answer is right in every training row, or in every validation row where a teacher is to be
            compared with guessing.
    """
    kind = kind_of(rows.problem)
    problems = [
        f"recipe {recipe.name}: {'.'.join(str(part) for part in place)}.metric: {reason}"
        for place, selection in selections(recipe)
        if selection.metric is not None and (reason := kind.why_no_score(selection.metric, rows))
    ]
    if problems:
        raise ConfigError(problems)
    same = None if kind.constant_teaches else kind.only_answer(rows.train, rows.labels)
    if same is not None:
        raise DataError(
            f"task.train: {same} in every row, so that there is nothing to learn; give training rows with other "
            "answers too"
        )
    compares = recipe.teacher.task_model is not None and recipe.teacher.minimum_gain > 0
    same = kind.only_answer(rows.validation, rows.labels) if compares else None
    if same is not None:
        raise DataError(
            f"task.validation: {same} in every row, so that no score could tell a model from one that always answers "
            "this; give validation rows with other answers too, or set teacher.minimum_gain to 0"
        )
