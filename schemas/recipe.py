"""A recipe: a teacher, a student, a task, a general corpus and a list of stages that fit together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.base import Frozen, Sha256
from schemas.data import DocstringTask, DocstringText, GeneralCorpus, TaskData, TaskDataset
from schemas.objective import (
    AttentionScores,
    ExplicitMap,
    LabelObjective,
    LatentObjective,
    TaskObjective,
    teacher_layers,
)
from schemas.refs import FolderModel
from schemas.stage import STAGE_ORDER, Stage, StageConfig
from schemas.student import StudentConfig, TeacherLayersStart
from schemas.teacher import (
    AlreadyFineTuned,
    FineTune,
    FinetunedTeacher,
    PretrainedTeacher,
    TeacherConfig,
)
from schemas.training import Duration, Training, _Duration

_Problem = tuple[tuple[str | int, ...], object, str]
"""Place, what was given there, and what is wrong with it."""


class Evaluation(Frozen):
    """The common yardstick put to every checkpoint of a run."""

    probe_train_rows: int = Field(default=2000, ge=10)
    """Training rows whose frozen features the linear probe is fitted on."""
    max_rows: int = Field(default=2000, ge=10)
    """Validation rows used at most."""
    latent_rows: int = Field(default=256, ge=1)
    """Held-out rows the latent loss is measured on."""


class Execution(Frozen):
    """How it is run here. Nothing in this part changes what is learned, so it is left out of every digest."""

    microbatch_tokens: int = Field(default=8192, ge=16)
    """Largest forward pass, in padded tokens; lower it when memory runs out."""
    log_every: int = Field(default=10, ge=1)
    """Optimizer steps between two logged points."""
    state_minutes: float = Field(default=2.0, gt=0)
    """At most so many minutes of work are lost when the process dies."""


class TeacherShape(Frozen):
    """What must be known of a teacher to check a recipe against it."""

    num_layers: int
    """Transformer blocks."""
    hidden_size: int
    """Width of the hidden states."""
    num_attention_heads: int
    """Attention heads per block."""
    intermediate_size: int
    """Neurons of the feed-forward part."""
    vocab_size: int
    """Rows of the token embedding."""
    max_positions: int
    """Longest sequence it can read."""


class Recipe(Frozen):
    """One progressive distillation, start to end."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]{0,63}$")
    """Short name: lower-case letters, digits, - and _."""
    description: str = Field(min_length=1, max_length=500)
    """One line for `distill recipes`."""
    teacher: TeacherConfig
    """Whom the student learns from."""
    student: StudentConfig
    """What is trained."""
    task: TaskData | None = None
    """Labelled data; null for recipes that stay general."""
    general_corpus: GeneralCorpus | None = None
    """Running text; null for recipes without a general stage."""
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=4)
    """What is done, in order; each stage at most once."""
    baselines: tuple[Literal["hard_labels", "bag_of_words"], ...] = ()
    """What the result is compared with: the same student on hard labels alone, a bag-of-words classifier."""
    evaluation: Evaluation = Evaluation()
    """The common yardstick."""
    execution: Execution = Execution()
    """How it is run here."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        problems = list(self._problems())
        if problems:
            raise ValidationError.from_exception_data(
                "Recipe",
                [
                    InitErrorDetails(
                        type=PydanticCustomError("recipe", "{reason}", {"reason": reason}),
                        loc=loc,
                        input=given,
                    )
                    for loc, given, reason in problems
                ],
            )
        return self

    def _problems(self) -> Iterator[_Problem]:
        yield from self._order_problems()
        yield from self._missing_parts()
        yield from self._map_problems()
        yield from self._leaks()

    def _leaks(self) -> Iterator[_Problem]:
        """Docstring corpus and docstring task must leave out the same modules."""
        if not isinstance(self.task, DocstringTask) or self.general_corpus is None:
            return
        for index, source in enumerate(self.general_corpus.sources):
            if not isinstance(source, DocstringText):
                continue
            for name in ("validation_ratio", "seed"):
                if getattr(source, name) != getattr(self.task, name):
                    yield (
                        ("general_corpus", "sources", index, name),
                        getattr(source, name),
                        f"the task's {name} is {getattr(self.task, name)}; give the same, or the corpus would train "
                        "on modules that the task validates on",
                    )

    def _order_problems(self) -> Iterator[_Problem]:
        names = [stage.name for stage in self.stages]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield ("stages",), name, f"{name} is listed twice; a recipe has each stage at most once"
        for index, (before, after) in enumerate(pairwise(names), start=1):
            if STAGE_ORDER.index(after) < STAGE_ORDER.index(before):
                order = ", ".join(STAGE_ORDER)
                reason = (
                    f"{after} comes after {before}; stages go from general to specific: {order}"
                )
                yield ("stages", index, "name"), after, reason

    def _missing_parts(self) -> Iterator[_Problem]:
        for stage in self.stages:
            if stage.data == "general_corpus" and self.general_corpus is None:
                reason = f"stage {stage.name} reads a general corpus; name its sources"
                yield ("general_corpus",), None, reason
            if stage.data == "task_data" and self.task is None:
                yield ("task",), None, f"stage {stage.name} reads task data; name a task"
            if stage.teacher == "fine_tuned" and self.teacher.task_model is None:
                reason = f"stage {stage.name} needs a fine-tuned teacher; give kind: fine_tune or kind: given"
                yield ("teacher", "task_model"), None, reason
        if isinstance(self.teacher.task_model, FineTune) and self.task is None:
            yield ("task",), None, "the teacher is to be fine-tuned; name a task"
        if self.baselines and self.task is None:
            reason = "a baseline needs a task; name one or leave baselines empty"
            yield ("baselines",), list(self.baselines), reason

    def _map_problems(self) -> Iterator[_Problem]:
        depth = self.student.shape.num_layers
        for index, stage in enumerate(self.stages):
            latent = latent_of(stage.objective)
            if latent is None or not isinstance(latent.layer_map, ExplicitMap):
                continue
            given = latent.layer_map.layers
            if len(given) != depth:
                inside = () if latent is stage.objective else ("latent",)
                yield (
                    ("stages", index, "objective", *inside, "layer_map", "layers"),
                    list(given),
                    f"{depth} student layers but {len(given)} teacher layers listed; list one per student layer",
                )

    def problems_with(self, teacher: TeacherShape) -> list[str]:
        """What does not fit the teacher's real shape, one line each naming the recipe's place; empty when all fits."""
        shape = self.student.shape
        problems = []
        for index, stage in enumerate(self.stages):
            if (latent := latent_of(stage.objective)) is None:
                continue
            inside = "" if latent is stage.objective else ".latent"
            place = f"stages[{index}].objective{inside}"
            try:
                teacher_layers(
                    latent.layer_map,
                    num_student_layers=shape.num_layers,
                    num_teacher_layers=teacher.num_layers,
                )
            except ValueError as error:
                problems.append(f"{place}.layer_map: {error}")
            if (
                any(isinstance(term, AttentionScores) for term in latent.terms)
                and shape.num_attention_heads != teacher.num_attention_heads
            ):
                problems.append(
                    f"{place}.terms: attention scores are matched head by head, but the student has "
                    f"{shape.num_attention_heads} heads and the teacher {teacher.num_attention_heads}; set "
                    f"student.shape.num_attention_heads to {teacher.num_attention_heads} or leave the "
                    "attention term out"
                )
        problems += self._start_problems(teacher)
        for place, data in (("task", self.task), ("general_corpus", self.general_corpus)):
            if data is not None and data.max_length > teacher.max_positions:
                problems.append(
                    f"{place}.max_length: {data.max_length} tokens, but the teacher reads at most "
                    f"{teacher.max_positions}"
                )
        return problems

    def _start_problems(self, teacher: TeacherShape) -> list[str]:
        shape, start = self.student.shape, self.student.start
        if not isinstance(start, TeacherLayersStart):
            return []
        problems = [
            f"student.shape.{name}: {getattr(shape, name)}, but layers copied from the teacher need its "
            f"{getattr(teacher, name)}; change the shape, or set student.start.kind to random"
            for name in ("hidden_size", "num_attention_heads", "intermediate_size")
            if getattr(shape, name) != getattr(teacher, name)
        ]
        try:
            teacher_layers(
                start.layer_map,
                num_student_layers=shape.num_layers,
                num_teacher_layers=teacher.num_layers,
            )
        except ValueError as error:
            problems.append(f"student.start.layer_map: {error}")
        return problems

    def latent_objective(self) -> LatentObjective | None:
        """The objective that the common latent loss is measured with: that of the first stage that has one."""
        return next(
            (latent for stage in self.stages if (latent := latent_of(stage.objective))), None
        )

    def teacher_config(self) -> StageConfig | None:
        """The fine-tuning of the teacher as a stage of its own; null when none is asked for."""
        if self.task is None or not isinstance(self.teacher.task_model, FineTune):
            return None
        return StageConfig(
            name="teacher",
            teacher=None,
            student=None,
            pretrained=self.teacher.model,
            data=TaskDataset(task=self.task),
            objective=LabelObjective(),
            training=self.teacher.task_model.training,
        )

    def stage_config(self, stage: Stage, *, fine_tuned: FinetunedTeacher | None) -> StageConfig:
        """`stage` with its three parts in full.

        Args:
            stage: one of `self.stages`.
            fine_tuned: the fine-tuned teacher, for stages that have one.
        """
        general, task = self.general_corpus, self.task
        data = (
            general if stage.data == "general_corpus" else TaskDataset(task=task) if task else None
        )
        teacher = (
            PretrainedTeacher(model=self.teacher.model)
            if stage.teacher == "pretrained"
            else fine_tuned
        )
        assert data is not None
        assert teacher is not None
        return StageConfig(
            name=stage.name,
            teacher=teacher,
            student=self.student,
            pretrained=self.teacher.model,
            data=data,
            objective=stage.objective,
            training=stage.training,
        )

    def given_teacher(self) -> FinetunedTeacher | None:
        """The fine-tuned teacher that somebody else made; null when this recipe makes its own or needs none."""
        given = self.teacher.task_model
        return FinetunedTeacher(model=given.model) if isinstance(given, AlreadyFineTuned) else None

    def made_teacher(self, checkpoint_folder: str, stage_digest: Sha256) -> FinetunedTeacher:
        """The fine-tuned teacher that `teacher_config()` makes, found in `checkpoint_folder`."""
        return FinetunedTeacher(
            model=FolderModel(path=checkpoint_folder), stage_digest=stage_digest
        )

    def hard_label_baseline(self, *, tokens: int) -> StageConfig:
        """The same student, same start, on hard labels alone, for as many tokens as all stages together."""
        assert self.task is not None
        last: Training = self.stages[-1].training
        duration: Duration = _Duration(amount=tokens, unit="tokens")
        return StageConfig(
            name="hard_label_baseline",
            teacher=None,
            student=self.student,
            pretrained=self.teacher.model,
            data=TaskDataset(task=self.task),
            objective=LabelObjective(),
            training=last.model_copy(update={"duration": duration}),
        )


def latent_of(
    objective: LatentObjective | TaskObjective | LabelObjective,
) -> LatentObjective | None:
    """The latent part of any objective; null when it has none."""
    match objective:
        case LatentObjective():
            return objective
        case TaskObjective():
            return objective.latent
        case LabelObjective():
            return None
