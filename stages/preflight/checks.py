"""Check of a recipe against the models and the data that it names, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModel, PretrainedConfig

from schemas.core.errors import ConfigError
from schemas.data.cards import DataCard
from schemas.recipe.recipe import Recipe
from schemas.recipe.student import StudentShape
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task
from stages.device.launch import check_divided, number_of_processes
from stages.device.network import check_rendezvous
from stages.device.sharding import parts_of
from stages.models.encoders import shape_of
from stages.models.student import count_parameters
from stages.preflight.data_card import make_data_card
from stages.preflight.model_checks import check_given_teachers, check_models
from stages.preflight.score_checks import check_scores


@dataclass(frozen=True)
class PreflightResult:
    """Shapes, sizes, labels and data card of a recipe that can run."""

    teacher: StudentShape
    student: StudentShape
    teacher_parameters: int
    student_parameters: int
    labels: tuple[str, ...]
    card: DataCard


def preflight(recipe: Recipe, cache: Path) -> PreflightResult:
    """Check everything that the recipe names.

    Raises:
        ConfigError: the recipe does not fit the teacher, all mistakes at once; or this machine has too few GPUs.
        DataError: a model or a data set is missing or cannot be used.
        ServiceError: a model hub is needed and cannot be reached.
    """
    launch = recipe.execution.launch
    number_of_processes(launch)
    if launch.machines > 1 and launch.rendezvous is not None:
        check_rendezvous(launch.rendezvous)
    models = check_models(recipe)
    if launch.teacher == "sharded":
        _check_divided(recipe, models.teacher)
    droppable = recipe.limits.dropped
    labels: tuple[str, ...] = ()
    remarks: dict[str, None] = {}
    if recipe.task is not None:
        rows = load_task(recipe.task, cache, droppable=droppable)
        labels = rows.labels
        remarks |= dict.fromkeys(rows.remarks)
    if recipe.teacher.multi_task is not None:
        for task in recipe.teacher.multi_task.tasks.values():
            remarks |= dict.fromkeys(load_task(task, cache, droppable=droppable).remarks)
    if recipe.general_corpus is not None:  # last, because it takes longest to read
        load_corpus(recipe.general_corpus, cache)
    if recipe.task is not None:
        check_scores(recipe, rows)
    check_given_teachers(recipe, models, labels)
    shape = shape_of(models.teacher)
    card = make_data_card(recipe, models.tokenizer, cache)
    if card.task is not None:  # remarks name the files, so that the cached card cannot hold them
        card = card.model_copy(update={"task": card.task.model_copy(update={"remarks": tuple(remarks)})})
    return PreflightResult(
        teacher=StudentShape(**{name: getattr(shape, name) for name in StudentShape.model_fields}),
        student=recipe.sized_student.shape,
        teacher_parameters=count_parameters(models.teacher),
        student_parameters=count_parameters(models.student),
        labels=labels,
        card=card,
    )


def _check_divided(recipe: Recipe, teacher: PretrainedConfig) -> None:
    """Refuse teachers that cannot be divided among the processes of a stage."""
    check_divided(recipe.execution.launch)
    for index, stage in enumerate(recipe.stages):
        if stage.training.teacher_precision == "int8":
            raise ConfigError(
                f"stages[{index}].training.teacher_precision: int8, but execution.launch.teacher is sharded, and "
                "8-bit weights are not divided; leave one of them out"
            )
    with torch.device("meta"):
        parts_of(AutoModel.from_config(teacher))
