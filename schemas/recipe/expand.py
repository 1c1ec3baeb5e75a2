"""From a recipe to the stages that are run: the teacher, data and objective of each in full.

A recipe names its parts once; a `StageConfig` repeats those that its stage uses. Teachers that have to be fine-tuned
are stages too: `teacher_candidates` lists them by their path in the recipe, and `task_teachers` takes the finished ones
under the same paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from schemas.core.base import Frozen, Sha256
from schemas.core.refs import AnyModel, FolderModel
from schemas.core.training import Duration, Training
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import TaskDataset, TaskMixture
from schemas.recipe.objective import LabelObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import Stage, StageConfig, StageName
from schemas.recipe.student import ExtractStart, RandomStart
from schemas.recipe.teacher import (
    AlreadyFineTuned,
    Committee,
    FineTune,
    FinetunedTeacher,
    OtherTeacher,
    PretrainedTeacher,
    StageModel,
    StageTeacher,
    TeacherConfig,
)

_MULTI_TASK = "teacher.multi_task"


class TaskTeachers(Frozen):
    """Teachers that know the task, published or fine-tuned by this recipe."""

    fine_tuned: tuple[FinetunedTeacher, ...] = ()
    """The first teacher and the others, fine-tuned on the task; empty when the recipe needs none."""
    multi_task: FinetunedTeacher | None = None
    """The teacher fine-tuned on several tasks; null when the recipe has none."""


def teacher_candidates(recipe: Recipe) -> dict[str, tuple[StageConfig, ...]]:
    """The fine-tunings of each teacher that has to be made, by the teacher's path in the recipe.

    The best of a teacher's candidates becomes the teacher; most recipes have one each.
    """
    candidates: dict[str, tuple[StageConfig, ...]] = {}
    for path, teacher in _members(recipe).items():
        if isinstance(teacher.task_model, FineTune) and recipe.task is not None:
            name: StageName = "teacher" if isinstance(teacher, TeacherConfig) else "other_teacher"
            model = recipe.pretrained if isinstance(teacher, TeacherConfig) else teacher.model
            data = TaskDataset(task=recipe.task)
            settings = teacher.task_model.candidates()
            candidates[path] = tuple(_fine_tuning(name, model, data, training) for training in settings)
    if (multi := recipe.teacher.multi_task) is not None:
        mixture = TaskMixture(tasks=multi.tasks)
        candidates[_MULTI_TASK] = (_fine_tuning("multi_task_teacher", recipe.pretrained, mixture, multi.training),)
    return candidates


def teacher_configs(recipe: Recipe) -> tuple[StageConfig, ...]:
    """Every fine-tuning that comes before the stages, in the order in which they are run."""
    return tuple(chain.from_iterable(teacher_candidates(recipe).values()))


def finished_teacher(folder: str, digest: Sha256) -> FinetunedTeacher:
    """The teacher that a finished fine-tuning left in a model folder outside a store."""
    return FinetunedTeacher(model=FolderModel(path=folder), stage_digest=digest)


def made_teacher(stage: StageName, digest: Sha256) -> FinetunedTeacher:
    """The teacher that a fine-tuning makes, whether it has finished or not."""
    return FinetunedTeacher(model=StageModel.model_validate({"stage": stage}), stage_digest=digest)


def task_teachers(recipe: Recipe, finished: Mapping[str, FinetunedTeacher]) -> TaskTeachers:
    """The teachers that know the task and are available.

    Args:
        recipe: the recipe.
        finished: the teachers made so far, under the paths of `teacher_candidates`.
    """
    fine_tuned = []
    for path, teacher in _members(recipe).items():
        if isinstance(teacher.task_model, AlreadyFineTuned):
            fine_tuned.append(FinetunedTeacher(model=teacher.task_model.model))
        elif path in finished:
            fine_tuned.append(finished[path])
    return TaskTeachers(fine_tuned=tuple(fine_tuned), multi_task=finished.get(_MULTI_TASK))


def stage_config(recipe: Recipe, stage: Stage, teachers: TaskTeachers) -> StageConfig:
    """`stage` with its three parts in full.

    Args:
        recipe: the recipe.
        stage: one of `recipe.stages`.
        teachers: those that know the task.
    """
    data: GeneralCorpus | TaskDataset
    if stage.data == "general_corpus":
        assert recipe.general_corpus is not None
        data = recipe.general_corpus
    else:
        assert recipe.task is not None
        augmentation = recipe.augmentation if stage.data == "augmented_task_data" else None
        data = TaskDataset(task=recipe.task, augmentation=augmentation)
    return StageConfig(
        name=stage.name,
        teacher=_stage_teacher(recipe, stage, teachers),
        student=recipe.sized_student,
        pretrained=recipe.pretrained,
        data=data,
        start_text=_start_text(recipe)
        if stage.name == recipe.stages[0].name and stage.data != "general_corpus"
        else None,
        objective=stage.objective,
        training=stage.training,
    )


def baseline_config(recipe: Recipe, *, tokens: int) -> StageConfig:
    """The same student from the same start, on hard labels alone, for as many tokens as all stages together."""
    assert recipe.task is not None
    changes: dict[str, Any] = {"duration": Duration(amount=tokens, unit="tokens")}
    if isinstance(recipe.student.start, RandomStart):
        changes["frozen"] = "none"  # earlier stages have trained what the last one keeps
    if (rate := recipe.hard_labels_learning_rate) is not None:
        changes["optimizer"] = recipe.stages[-1].training.optimizer.model_copy(update={"learning_rate": rate})
    return StageConfig(
        name="hard_label_baseline",
        teacher=None,
        student=recipe.sized_student,
        pretrained=recipe.pretrained,
        data=TaskDataset(task=recipe.task),
        start_text=_start_text(recipe),
        objective=LabelObjective(),
        training=recipe.stages[-1].training.model_copy(update=changes),
    )


def _start_text(recipe: Recipe) -> GeneralCorpus | None:
    """Text on which the student's parts are chosen; None where they are not, or without a general corpus."""
    start = recipe.student.start
    return recipe.general_corpus if isinstance(start, ExtractStart) and start.units == "importance" else None


def _members(recipe: Recipe) -> dict[str, TeacherConfig | OtherTeacher]:
    """The first teacher and the others, by their paths in the recipe."""
    others = {f"teacher.others[{index}]": other for index, other in enumerate(recipe.teacher.others)}
    return {"teacher": recipe.teacher, **others}


def _stage_teacher(recipe: Recipe, stage: Stage, teachers: TaskTeachers) -> StageTeacher:
    if stage.teacher == "multi_task":
        assert teachers.multi_task is not None
        return teachers.multi_task
    others = recipe.teacher.others
    members: tuple[PretrainedTeacher | FinetunedTeacher, ...] = teachers.fine_tuned
    if stage.teacher == "pretrained":
        models = [recipe.pretrained, *(other.model for other in others)]
        members = tuple(PretrainedTeacher(model=model) for model in models)
    assert len(members) == 1 + len(others)
    if not others:
        return members[0]
    weights = (1.0, *(other.weight for other in others))
    return Committee(
        members=members,
        weights=tuple(weight / sum(weights) for weight in weights),
        weighting=recipe.teacher.weighting,
    )


def _fine_tuning(name: StageName, model: AnyModel, data: TaskDataset | TaskMixture, training: Training) -> StageConfig:
    return StageConfig(
        name=name,
        teacher=None,
        student=None,
        pretrained=model,
        data=data,
        objective=LabelObjective(),
        training=training,
    )
