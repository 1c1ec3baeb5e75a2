"""A recipe: a teacher, a student, a task, a general corpus and a list of stages that fit together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import assert_never

from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.core.base import Frozen, Sha256
from schemas.core.refs import AnyModel, FolderModel, StudentOf
from schemas.core.training import Duration, Training, _Duration
from schemas.data.stage_data import GeneralCorpus, TaskDataset, TaskMixture
from schemas.recipe.checks import recipe_problems, teacher_problems
from schemas.recipe.objective import LabelObjective, LatentObjective
from schemas.recipe.parts import RecipeParts, TeacherShape
from schemas.recipe.stage import Stage, StageConfig, StageName
from schemas.recipe.teacher import (
    AlreadyFineTuned,
    Committee,
    FineTune,
    FinetunedTeacher,
    PretrainedTeacher,
    StageTeacher,
)


class MadeTeachers(Frozen):
    """Teachers that know the task, given or made by this recipe."""

    fine_tuned: tuple[FinetunedTeacher, ...] = ()
    """The first teacher and the others, fine-tuned on the task; empty when the recipe needs none."""
    multi_task: FinetunedTeacher | None = None
    """The one fine-tuned on several tasks; null when the recipe has none."""


class Recipe(RecipeParts):
    """One progressive distillation, start to end."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        problems = list(recipe_problems(self))
        if problems:
            raise ValidationError.from_exception_data(
                "Recipe",
                [
                    InitErrorDetails(
                        type=PydanticCustomError("recipe", "{reason}", {"reason": reason}), loc=loc, input=given
                    )
                    for loc, given, reason in problems
                ],
            )
        return self

    def problems_with(self, teacher: TeacherShape, *, is_first: bool = True) -> list[str]:
        """What does not fit a teacher's real shape, one line each naming the recipe's place; empty when all fits.

        Args:
            teacher: its shape.
            is_first: whether it is the teacher that the student may start from, not one of the others.
        """
        return teacher_problems(self, teacher, is_first=is_first)

    def latent_objective(self) -> LatentObjective | None:
        """The objective that the common latent loss is measured with: that of the first stage that has one."""
        return next((latent for stage in self.stages if (latent := stage.objective.latent)), None)

    @property
    def pretrained(self) -> AnyModel:
        """The pretrained teacher, once the recipe it may be the student of has been run."""
        model = self.teacher.model
        assert not isinstance(model, StudentOf), "resolve the assistant's recipe first"
        return model

    def with_pretrained(self, model: AnyModel) -> Recipe:
        """The same recipe with another pretrained teacher."""
        teacher = self.teacher.model_copy(update={"model": model})
        return self.model_copy(update={"teacher": teacher})

    def for_task(self, name: str) -> Recipe:
        """The ordinary recipe of one of several tasks, whose stages are those of a run with that task alone."""
        assert self.tasks is not None
        return self.model_copy(update={"task": self.tasks[name], "tasks": None})

    def without_tasks(self) -> Recipe:
        """The ordinary recipe of what several tasks share: its general stages, and no teacher that knows one task."""
        others = tuple(o.model_copy(update={"task_model": None}) for o in self.teacher.others)
        teacher = self.teacher.model_copy(update={"task_model": None, "others": others})
        general = {"teacher": teacher, "task": None, "tasks": None, "baselines": ()}
        return self.model_copy(update={**general, "stages": self.shared_stages()})

    def teacher_configs(self) -> tuple[StageConfig, ...]:
        """The fine-tunings that come before the stages, each a stage of its own."""
        return tuple(chain.from_iterable(self.teacher_candidates()))

    def teacher_candidates(self) -> tuple[tuple[StageConfig, ...], ...]:
        """The fine-tunings of each teacher that has to be made: first teacher, others, multi-task.

        The best of a teacher's is the teacher; mostly there is one.
        """
        found: list[tuple[StageConfig, ...]] = []
        members = [(self.pretrained, self.teacher.task_model)]
        members += [(other.model, other.task_model) for other in self.teacher.others]
        for number, (model, task_model) in enumerate(members):
            if isinstance(task_model, FineTune) and self.task is not None:
                name: StageName = "other_teacher" if number else "teacher"
                data = TaskDataset(task=self.task)
                tried = task_model.candidates()
                found.append(tuple(_fine_tuning(name, model, data, each) for each in tried))
        if (multi := self.teacher.multi_task) is not None:
            mixture = TaskMixture(tasks=multi.tasks)
            made = _fine_tuning("multi_task_teacher", self.pretrained, mixture, multi.training)
            found.append((made,))
        return tuple(found)

    def stage_config(self, stage: Stage, teachers: MadeTeachers) -> StageConfig:
        """`stage` with its three parts in full.

        Args:
            stage: one of `self.stages`.
            teachers: those that this recipe has fine-tuned or will have.
        """
        data: GeneralCorpus | TaskDataset
        if stage.data == "general_corpus":
            assert self.general_corpus is not None
            data = self.general_corpus
        else:
            assert self.task is not None
            copies = self.augmentation if stage.data == "augmented_task_data" else None
            data = TaskDataset(task=self.task, augmentation=copies)
        return StageConfig(
            name=stage.name,
            teacher=self._stage_teacher(stage, teachers),
            student=self.student,
            pretrained=self.pretrained,
            data=data,
            objective=stage.objective,
            training=stage.training,
        )

    def _stage_teacher(self, stage: Stage, teachers: MadeTeachers) -> StageTeacher:
        others = self.teacher.others
        members: tuple[PretrainedTeacher | FinetunedTeacher, ...]
        match stage.teacher:
            case "multi_task":
                assert teachers.multi_task is not None
                return teachers.multi_task
            case "pretrained":
                models = [self.pretrained, *(other.model for other in others)]
                members = tuple(PretrainedTeacher(model=model) for model in models)
            case "fine_tuned":
                assert len(teachers.fine_tuned) == 1 + len(others)
                members = teachers.fine_tuned
            case _:
                assert_never(stage.teacher)
        if not others:
            return members[0]
        weights = (1.0, *(other.weight for other in others))
        return Committee(
            members=members,
            weights=tuple(weight / sum(weights) for weight in weights),
            weighting=self.teacher.weighting,
        )

    def fine_tuned_teachers(self, made: Sequence[tuple[StageConfig, str, Sha256]]) -> MadeTeachers:
        """The task's teachers, given or made.

        Args:
            made: one of each of `teacher_candidates()`, in its order, with its model folder and digest.
        """
        left = list(made)  # shorter than teacher_candidates() while they are still being made
        fine_tuned: list[FinetunedTeacher] = []
        for task_model in (self.teacher.task_model, *(o.task_model for o in self.teacher.others)):
            if isinstance(task_model, AlreadyFineTuned):
                fine_tuned.append(FinetunedTeacher(model=task_model.model))
            elif isinstance(task_model, FineTune) and left:
                fine_tuned.append(_made(*left.pop(0)[1:]))
        multi_task = _made(*left.pop(0)[1:]) if left else None
        return MadeTeachers(fine_tuned=tuple(fine_tuned), multi_task=multi_task)

    def hard_label_baseline(self, *, tokens: int) -> StageConfig:
        """The same student, same start, on hard labels alone, for as many tokens as all stages together."""
        assert self.task is not None
        last: Training = self.stages[-1].training
        duration: Duration = _Duration(amount=tokens, unit="tokens")
        return StageConfig(
            name="hard_label_baseline",
            teacher=None,
            student=self.student,
            pretrained=self.pretrained,
            data=TaskDataset(task=self.task),
            objective=LabelObjective(),
            training=last.model_copy(update={"duration": duration}),
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


def _made(folder: str, digest: Sha256) -> FinetunedTeacher:
    return FinetunedTeacher(model=FolderModel(path=folder), stage_digest=digest)
