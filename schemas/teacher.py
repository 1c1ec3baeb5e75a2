"""The teachers: the pretrained model, how one becomes expert in the task, and several at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, Sha256
from schemas.data import TaskData
from schemas.refs import ModelRef, TeacherRef
from schemas.training import Training


class FineTune(Frozen):
    """Fine-tune the pretrained teacher on the task first; the result is kept and reused like a stage."""

    kind: Literal["fine_tune"] = "fine_tune"
    training: Training
    """How it is fine-tuned (hard labels)."""


class AlreadyFineTuned(Frozen):
    """A model somebody has fine-tuned on the task, with its classification head."""

    kind: Literal["given"] = "given"
    model: ModelRef
    """Where it is."""


TaskTeacher = Annotated[FineTune | AlreadyFineTuned, Field(discriminator="kind")]


class MultiTask(Frozen):
    """One teacher fine-tuned on several tasks at once, each with a head of its own (ERNIE 3.0 Tiny)."""

    tasks: dict[str, TaskData] = Field(min_length=2)
    """The tasks under the names that their classes get as a prefix, such as `sst2/positive`."""
    training: Training
    """How it is fine-tuned (hard labels); every batch mixes the tasks in proportion to their rows."""


class OtherTeacher(Frozen):
    """One more teacher with the same vocabulary."""

    model: ModelRef
    """The pretrained encoder."""
    task_model: TaskTeacher | None = None
    """Where its fine-tuned form comes from; null for recipes that never need one."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Its share beside the first teacher's 1; all shares are scaled to sum to 1."""


class TeacherConfig(Frozen):
    """Whom the student learns from."""

    model: TeacherRef
    """The pretrained encoder: a hub id, a folder, `package:NAME`, or the student of another recipe."""
    task_model: TaskTeacher | None = None
    """Where the fine-tuned teacher comes from; null for recipes that never need one."""
    multi_task: MultiTask | None = None
    """Makes the teacher of stages that name a `multi_task` one; null for none."""
    others: tuple[OtherTeacher, ...] = Field(default=(), max_length=7)
    """More teachers, learnt from together with the first."""
    weighting: Literal["fixed", "confidence"] = "fixed"
    """Shares of several teachers: as given, or row by row by how well each knows the label (CA-MKD)."""
    minimum_gain: float = Field(default=0.05, ge=0, lt=1)
    """The fine-tuned teacher's accuracy must exceed the majority class by at least this much (0 to 1)."""


class PretrainedTeacher(Frozen):
    """The pretrained model as a stage's teacher."""

    kind: Literal["pretrained"] = "pretrained"
    model: ModelRef
    """Where it is."""


class FinetunedTeacher(Frozen):
    """A fine-tuned model as a stage's teacher."""

    kind: Literal["fine_tuned"] = "fine_tuned"
    model: ModelRef
    """Where it is: a given model, or the folder of the checkpoint that fine-tuning left."""
    stage_digest: Sha256 | None = None
    """Digest of the fine-tuning that made it, when this project made it; identifies it before it exists."""


SingleTeacher = Annotated[PretrainedTeacher | FinetunedTeacher, Field(discriminator="kind")]


class Committee(Frozen):
    """Several models as a stage's teacher."""

    kind: Literal["committee"] = "committee"
    members: tuple[SingleTeacher, ...] = Field(min_length=2)
    """The teachers; the common yardstick measures against the first."""
    weights: tuple[float, ...]
    """Share of each; they sum to 1."""
    weighting: Literal["fixed", "confidence"] = "fixed"
    """Shares as given, or row by row by how well each teacher knows the label."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Committee:
        if len(self.weights) != len(self.members):
            raise ValueError(
                f"weights: {len(self.weights)} given for {len(self.members)} teachers; give one each"
            )
        return self


StageTeacher = Annotated[
    PretrainedTeacher | FinetunedTeacher | Committee, Field(discriminator="kind")
]


def members_of(
    teacher: PretrainedTeacher | FinetunedTeacher | Committee | None,
) -> tuple[PretrainedTeacher | FinetunedTeacher, ...]:
    """The models that a stage learns from: none, one or several."""
    if teacher is None:
        return ()
    return teacher.members if isinstance(teacher, Committee) else (teacher,)
