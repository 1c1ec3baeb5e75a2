"""Held-out losses and task scores of a stage that has just been trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from schemas.data.stage_data import TaskMixture
from schemas.recipe.stage import StageConfig
from stages.data.batching.tokens import Tokens
from stages.device.runtime import Runtime
from stages.evaluation.read_models import held_out_losses
from stages.evaluation.task_part import TaskPart
from stages.objective.objective import ObjectiveTerms

MEAN_SCORE = "mean_score"
"""Metric name of the mean over the main scores of several tasks."""

_HELD_OUT_ROWS = 256


def stage_scores(
    config: StageConfig,
    student: nn.Module,
    teachers: Sequence[nn.Module],
    objective: ObjectiveTerms,
    held_out: Tokens,
    parts: Mapping[str, TaskPart],
) -> dict[str, float]:
    """Return the objective's losses on held-out rows, and the head's scores if the objective trains one.

    Args:
        config: the stage.
        student: the trained student, on its device.
        teachers: models it learnt from; moved to the student's device.
        objective: the stage's objective.
        held_out: sequences that were not trained on.
        parts: labelled tasks by name; a single task has the name "".
    """
    device = next(student.parameters()).device
    for teacher in teachers:
        teacher.to(device)
    # In the number format of training, so that they compare with the training losses.
    with Runtime(config.training.precision).autocast():
        losses = held_out_losses(student, teachers, objective, held_out, max_rows=_HELD_OUT_ROWS)
    metrics = {f"eval/{name}": value for name, value in losses.items()}
    if not config.objective.trains_task_head:
        return metrics
    scores = {name: _task_scores(part, student, teachers[:1]) for name, part in parts.items()}
    if isinstance(config.data, TaskMixture):
        return metrics | _mixture_scores(scores, parts)
    (task_scores,) = scores.values()
    return metrics | {f"eval/{name}": value for name, value in task_scores.items()}


def _task_scores(part: TaskPart, student: nn.Module, teachers: Sequence[nn.Module]) -> dict[str, float]:
    """Scores on one task's validation rows."""
    scorer = part.scorer()
    if teachers and not scorer.can_score:
        scorer = scorer.with_teacher(scorer.answers_of(teachers[0]))
    scores = scorer.scores(part.task.main_metric, scorer.answers_of(student, part.outputs))
    return {name: score.value for name, score in scores.items()}


def _mixture_scores(scores: Mapping[str, Mapping[str, float]], parts: Mapping[str, TaskPart]) -> dict[str, float]:
    """All scores of all tasks, the mean of their main scores, and the mean accuracy of the tasks that have one."""
    metrics = {f"eval/{metric}/{name}": value for name, task in scores.items() for metric, value in task.items()}
    mains = [scores[name][part.task.main_metric] for name, part in parts.items()]
    metrics[f"eval/{MEAN_SCORE}"] = sum(mains) / len(mains)
    accuracies = [task["accuracy"] for task in scores.values() if "accuracy" in task]
    if accuracies:
        metrics["eval/accuracy"] = sum(accuracies) / len(accuracies)
    return metrics
