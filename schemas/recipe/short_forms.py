"""Short forms of a recipe's parts, and the settings that they stand for.

| short form                     | stands for                                                                          |
|--------------------------------|-------------------------------------------------------------------------------------|
| `teacher: MODEL`               | a pretrained encoder, fine-tuned first if a stage needs a fine-tuned teacher        |
| `teacher: {fine_tuned: MODEL}` | a classifier that is fine-tuned already; its encoder is also the pretrained teacher |
| `task_model: fine_tune`        | a fine-tuning with the settings of `TEACHER_TRAINING`                               |
| `stages: [general, ...]`       | the stages with the settings of `STAGE_TRAINING`                                    |
| `general_corpus: ./folder`     | its sources; also a list                                                            |
| `start: teacher_layers`        | a start with nothing but its kind                                                   |

`MODEL` is `./folder`, a hub id, or `package:NAME`. A part in its long form is left as it is: a stage with a `training`
of its own takes none of these settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.recipe.stage import STAGE_ORDER, StudentStageName

TEACHER_TRAINING: Mapping[str, Any] = {
    "duration": "4 epochs",
    "batch": "32 sequences",
    "optimizer": {"learning_rate": 5e-5},
}
"""Fine-tuning of a teacher: the upper end of BERT's grid (Devlin et al. 2019, appendix A.3), for few rows too."""

STAGE_TRAINING: Mapping[StudentStageName, Mapping[str, Any]] = {
    name: {"duration": duration, "batch": "32 sequences", "optimizer": {"learning_rate": rate}}
    for name, duration, rate in zip(
        STAGE_ORDER, ("2M tokens", "1M tokens", "3 epochs", "5 epochs"), (1e-4, 1e-4, 1e-4, 5e-5), strict=True
    )
}
"""Training of a stage that names none. This project's choice, not a paper's; a corpus may be too large for an epoch."""


def expanded(recipe: Any) -> Any:
    """Return a recipe's mapping with its short forms written out; anything that is no short form stays as it is."""
    if not isinstance(recipe, Mapping):
        return recipe
    result = dict(recipe)
    if isinstance(stages := result.get("stages"), list | tuple):
        result["stages"] = [_stage(stage) for stage in stages]
    if "teacher" in result:
        result["teacher"] = _teacher(result["teacher"], is_tuned=_needs_tuned_teacher(result.get("stages")))
    corpus = result.get("general_corpus")
    if isinstance(corpus, str | list | tuple):
        result["general_corpus"] = {"sources": corpus}
    student = result.get("student")
    if isinstance(student, Mapping) and isinstance(start := student.get("start"), str):
        result["student"] = {**student, "start": {"kind": start}}
    return result


def _stage(stage: Any) -> Any:
    if isinstance(stage, str):
        stage = {"name": stage}
    if not isinstance(stage, Mapping) or "training" in stage:
        return stage
    name = stage.get("name")
    training = STAGE_TRAINING.get(name) if isinstance(name, str) else None  # type: ignore[call-overload]
    return stage if training is None else {**stage, "training": _copy(training)}


def _needs_tuned_teacher(stages: Any) -> bool:
    """Return whether a stage, in its long form, learns from a teacher that was fine-tuned on the task."""
    return isinstance(stages, list) and any(
        isinstance(stage, Mapping) and stage.get("name") != STAGE_ORDER[0] and stage.get("teacher") != "multi_task"
        for stage in stages
    )


def _teacher(teacher: Any, *, is_tuned: bool) -> Any:
    if isinstance(teacher, str):
        teacher = {"model": teacher, **({"task_model": "fine_tune"} if is_tuned else {})}
    if not isinstance(teacher, Mapping):
        return teacher
    result = dict(teacher)
    if isinstance(result.get("fine_tuned"), str) and "task_model" not in result:
        model = result.pop("fine_tuned")
        result = {"model": model, **result, "task_model": {"kind": "given", "model": model}}
    task_model = result.get("task_model")
    if task_model == "fine_tune" or (isinstance(task_model, Mapping) and dict(task_model) == {"kind": "fine_tune"}):
        result["task_model"] = {"kind": "fine_tune", "training": _copy(TEACHER_TRAINING)}
    return result


def _copy(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that an override may change."""
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in training.items()}
