"""Check that the scores of a recipe are defined and meaningful for its task's rows, before anything is trained."""

from __future__ import annotations

from schemas.core.errors import ConfigError, DataError
from schemas.recipe.kind_checks import selections
from schemas.recipe.recipe import Recipe
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows


def check_scores(recipe: Recipe, rows: TaskRows) -> None:
    """Refuse scores that are undefined for the task's rows, or that a constant answer maximises.

    Args:
        recipe: with a task.
        rows: of the task.

    Raises:
        ConfigError: weights are selected by a score of one class that is not named, or by a score of entities that the
            tags do not mark.
        DataError: all training rows have the same answer, or all validation rows and the teacher has to beat guessing.
    """
    kind = kind_of(rows.problem)
    problems = [
        f"recipe {recipe.name}: {'.'.join(str(part) for part in path)}.metric: {reason}"
        for path, selection in selections(recipe)
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
            f"task.validation: {same} in every row, so that no score can distinguish a model from a constant "
            "answer; give validation rows with other answers too, or set teacher.minimum_gain to 0"
        )
