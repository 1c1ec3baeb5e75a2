"""Scores that could not be told, or would tell nothing: found in a task's rows before anything is trained."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import (
    Classification,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    TaskKind,
    TokenClassification,
)
from schemas.core.metrics import ABOUT_ONE_CLASS, MetricName
from schemas.core.wording import printable
from schemas.recipe.kind_checks import selections
from schemas.recipe.recipe import Recipe
from stages.data.columns.tag_schemes import are_bio
from stages.data.tasks.load import TaskRows
from stages.data.tasks.positive_class import unclear


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
    problems = [
        f"recipe {recipe.name}: {'.'.join(str(part) for part in place)}.metric: {reason}"
        for place, selection in selections(recipe)
        if selection.metric is not None and (reason := _untold(selection.metric, rows))
    ]
    if problems:
        raise ConfigError(problems)
    # Which place the right choice has is nothing that a model of choices could learn by heart.
    is_learnt = not isinstance(rows.problem, MultipleChoice)
    same = _only_answer(rows.train, rows.problem, rows.labels) if is_learnt else None
    if same is not None:
        raise DataError(
            f"task.train: {same} in every row, so that there is nothing to learn; give training rows with other "
            "answers too"
        )
    compares = recipe.teacher.task_model is not None and recipe.teacher.minimum_gain > 0
    same = _only_answer(rows.validation, rows.problem, rows.labels) if compares else None
    if same is not None:
        raise DataError(
            f"task.validation: {same} in every row, so that no score could tell a model from one that always answers "
            "this; give validation rows with other answers too, or set teacher.minimum_gain to 0"
        )


def _untold(metric: MetricName, rows: TaskRows) -> str | None:
    """Why a score of the task's rows could not be told; None where it can."""
    if metric in ABOUT_ONE_CLASS and rows.positive_label is None:
        return unclear(metric, rows.labels)
    if metric == "entity_f1" and not are_bio(rows.labels):
        return (
            "entity_f1 scores entities, and the tags are kept as they are written because task.metric is "
            "token_accuracy; choose by token_accuracy, or set task.metric to entity_f1"
        )
    return None


def _only_answer(rows: Dataset, problem: TaskKind, labels: tuple[str, ...]) -> str | None:
    """What is right in every row, in words; None where rows differ, or every answer is one of its own."""
    match problem:
        case QuestionAnswering():
            return None if any(rows["answers"][:]) else "there is no answer"
        case Classification() | MultipleChoice():
            found: set[tuple[int, ...]] = {(label,) for label in rows["label"][:]}
        case MultiLabel():
            found = {tuple(np.flatnonzero(row).tolist()) for row in rows["label"][:]}
        case TokenClassification():
            found = {(tag,) for row in rows["label"][:] for tag in row}
        case _:
            return None
    if len(found) > 1:
        return None
    (only,) = found
    if isinstance(problem, MultipleChoice):
        return f"the right choice is number {only[0] + 1}"
    return f"the answer is {printable(', '.join(labels[each] for each in only) or 'no label', 120)}"
