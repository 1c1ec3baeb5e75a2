"""The teacher: the pretrained model, and how it becomes one that knows the task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Frozen, Sha256
from schemas.refs import ModelRef
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


class TeacherConfig(Frozen):
    """Whom the student learns from."""

    model: ModelRef
    """The pretrained encoder: a hub id, a folder, or `package:NAME`."""
    task_model: TaskTeacher | None = None
    """Where the fine-tuned teacher comes from; null for recipes that never need one."""
    minimum_gain: float = Field(default=0.05, ge=0, lt=1)
    """The fine-tuned teacher's accuracy must exceed the majority class by at least this much (0 to 1)."""


class PretrainedTeacher(Frozen):
    """The pretrained model as a stage's teacher."""

    kind: Literal["pretrained"] = "pretrained"
    model: ModelRef
    """Where it is."""


class FinetunedTeacher(Frozen):
    """The fine-tuned model as a stage's teacher."""

    kind: Literal["fine_tuned"] = "fine_tuned"
    model: ModelRef
    """Where it is: a given model, or the folder of the checkpoint that fine-tuning left."""
    stage_digest: Sha256 | None = None
    """Digest of the fine-tuning that made it, when this project made it; identifies it before it exists."""


StageTeacher = Annotated[PretrainedTeacher | FinetunedTeacher, Field(discriminator="kind")]
