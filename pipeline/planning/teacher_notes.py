"""Notes of a plan on the teachers that it fine-tunes: by which rows they are chosen, and how much text they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.planning.candidates import metric_of
from pipeline.reporting.run_table import amount
from schemas.recipe.stage import STAGE_ORDER, StageConfig

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
