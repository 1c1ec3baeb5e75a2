"""Notes of a plan on the teachers that it fine-tunes: by which rows they are chosen, and how much text they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.planning.candidates import metric_of
from pipeline.reporting.run_table import amount
from schemas.core.errors import DataError
from schemas.core.kinds import TaskKind
from schemas.core.refs import AnyModel, describe_model
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import STAGE_ORDER, StageConfig
from schemas.recipe.teacher import FineTune
from stages.kinds.registry import kind_of
from stages.models.encoders import locate

CHOSEN_ON_VALIDATION = (
    "the validation rows, which are reported too, so that its score is the best of several and slightly too good; set "
    "training.selection.rows to held_out"
)
_ENOUGH = 0.9
"""Share of the student's tokens below which a teacher's are called fewer."""
CHOSEN_ON_HELD_OUT = "training rows held out"


def rows_of_choice(config: StageConfig) -> str:
    """Return the rows on which a fine-tuning is compared with other candidates, in words."""
    selection = config.training.selection
    is_held_out = selection is not None and selection.rows == "held_out"
    return CHOSEN_ON_HELD_OUT if is_held_out else CHOSEN_ON_VALIDATION


def teacher_notes(stages: Sequence[tuple[str | None, StageConfig, int]]) -> Iterator[str]:
    """Yield one note a line.

    Args:
        stages: task, config and tokens of every stage of a plan; no task for stages that several tasks share.
    """
    candidates: dict[tuple[str | None, str], list[StageConfig]] = {}
    tokens: dict[tuple[str | None, str], int] = {}
    for task, config, stage_tokens in stages:
        if config.student is None:
            place = task, config.name if config.name != "other_teacher" else f"other_teacher {config.pretrained}"
            candidates.setdefault(place, []).append(config)
            tokens[place] = max(tokens.get(place, 0), stage_tokens)
    for (task, _), group in candidates.items():
        if len(group) > 1:
            title = f"{task}/{group[0].name}" if task else group[0].name
            yield (
                f"{title}: the best of {len(group)} candidates is chosen by {metric_of(group[0])} on "
                f"{rows_of_choice(group[0])}"
            )
    yield from _fewer_tokens(stages, {task: number for (task, name), number in tokens.items() if name == "teacher"})


def knows_task(model: AnyModel, problem: TaskKind, labels: tuple[str, ...]) -> bool:
    """Return whether a model has a trained head that answers with a task's labels.

    Raises:
        DataError: there is no such model.
        ServiceError: a model hub is needed and cannot be reached.
    """
    head, folder = kind_of(problem).head, locate(model)
    try:
        head.check_trained(folder, describe_model(model))
        head.match_labels(head.load(folder), labels, folder)
    except DataError:
        return False
    return True


def tuned_again(recipe: Recipe, labels: tuple[str, ...]) -> Iterator[str]:
    """Yield a note if a teacher is to be fine-tuned that answers with the task's labels already."""
    if recipe.task is None or not isinstance(recipe.teacher.task_model, FineTune):
        return
    if knows_task(recipe.pretrained, recipe.task.problem, labels):
        name = describe_model(recipe.pretrained)
        yield (
            f"teacher: {name} answers with these labels already, and is fine-tuned once more; to use it as it is, "
            f"write teacher: {{fine_tuned: {name}}}"
        )


def _fewer_tokens(
    stages: Sequence[tuple[str | None, StageConfig, int]], of_teachers: Mapping[str | None, int]
) -> Iterator[str]:
    """Yield the first teachers that read fewer tokens than the stages of their student together."""
    for task, of_teacher in of_teachers.items():
        of_student = sum(
            tokens for of_task, config, tokens in stages if config.name in STAGE_ORDER and of_task in (None, task)
        )
        if of_teacher < _ENOUGH * of_student:
            title = f"{task}/teacher" if task else "teacher"
            yield (
                f"{title}: fine-tuned on {amount(of_teacher)} tokens, while its student's stages read "
                f"{amount(of_student)}; where more make a better teacher, the student gains too: "
                f"teacher.task_model.training.duration={_thousands(of_student)}"
            )


def _thousands(tokens: int) -> str:
    return f"{-(-tokens // 1000)}k tokens" if tokens > 1000 else f"{tokens} tokens"
