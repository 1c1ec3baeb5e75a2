"""The four stages as a recipe lists them, and a stage in full, as it is run.

Distillation has three parts, and each stage changes one of them:

| stage              | teacher        | data             | objective     |
|--------------------|----------------|------------------|---------------|
| `general`          | pretrained     | general corpus   | latent        |
| `general_enhanced` | **fine-tuned** | general corpus   | latent        |
| `task_adaptive`    | fine-tuned     | **task data**    | latent        |
| `task_specific`    | fine-tuned     | task data        | **task**      |

The literal types below enforce this table: a task-specific stage on a general corpus cannot be expressed.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from schemas.core.base import Frozen
from schemas.core.refs import ModelRef
from schemas.core.training import Training
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import Data
from schemas.recipe.objective import GeneralObjective, LatentObjective, Objective, TaskObjective
from schemas.recipe.student import StudentConfig
from schemas.recipe.teacher import StageTeacher, TeacherStageName

TaskRead = Literal["task_data", "augmented_task_data"]


class _Stage(Frozen):
    training: Training
    """Settings of the training."""


class GeneralStage(_Stage):
    """General distillation: internal states of the pretrained teacher on general text."""

    name: Literal["general"] = "general"
    teacher: Literal["pretrained"] = "pretrained"
    """Fixed by the stage."""
    data: Literal["general_corpus"] = "general_corpus"
    """Fixed by the stage."""
    objective: GeneralObjective = LatentObjective()
    """Internal states, or masked words as well (DistilBERT)."""


class GeneralEnhancedStage(_Stage):
    """General-enhanced distillation: the same text and objective with the fine-tuned teacher."""

    name: Literal["general_enhanced"] = "general_enhanced"
    teacher: Literal["fine_tuned", "multi_task"] = "fine_tuned"
    """Fine-tuned on the task, or once on many tasks together (ERNIE 3.0 Tiny)."""
    data: Literal["general_corpus"] = "general_corpus"
    """Fixed by the stage."""
    objective: LatentObjective = LatentObjective()
    """Objective of the training."""


class TaskAdaptiveStage(_Stage):
    """Task-adaptive distillation: the same teacher and objective on the task's text."""

    name: Literal["task_adaptive"] = "task_adaptive"
    teacher: Literal["fine_tuned"] = "fine_tuned"
    """Fixed by the stage."""
    data: TaskRead = "task_data"
    """The task's rows, or those and their augmented copies."""
    objective: LatentObjective = LatentObjective()
    """Objective of the training."""


class TaskSpecificStage(_Stage):
    """Task-specific distillation: the same teacher and text with soft and hard labels."""

    name: Literal["task_specific"] = "task_specific"
    teacher: Literal["fine_tuned"] = "fine_tuned"
    """Fixed by the stage."""
    data: TaskRead = "task_data"
    """The task's rows, or those and their augmented copies."""
    objective: TaskObjective = TaskObjective()
    """Objective of the training."""


Stage = Annotated[
    GeneralStage | GeneralEnhancedStage | TaskAdaptiveStage | TaskSpecificStage, Field(discriminator="name")
]
StudentStageName = Literal["general", "general_enhanced", "task_adaptive", "task_specific"]
StageName = Literal[TeacherStageName, StudentStageName, "hard_label_baseline"]

STAGE_TYPES: dict[StudentStageName, type[Stage]] = {
    stage.model_fields["name"].default: stage for stage in get_args(get_args(Stage)[0])
}
"""The stages that a recipe may have, in order."""
STAGE_ORDER: tuple[StudentStageName, ...] = tuple(STAGE_TYPES)
TEACHER_NAMES: tuple[TeacherStageName, ...] = get_args(TeacherStageName)


class StageConfig(Frozen):
    """A stage as it is run, with every part in full.

    Fine-tunings of teachers and the hard-label baseline are stages too: they run through the same loop, and only their
    three parts differ.
    """

    name: StageName
    """Name in folders, metrics and tables."""
    teacher: StageTeacher | None
    """Teacher that the student learns from; null for hard labels alone."""
    student: StudentConfig | None
    """Shape and start of the student; null to train the pretrained teacher itself."""
    pretrained: ModelRef
    """The pretrained model: source of the tokenizer, the architecture, and copied weights."""
    data: Data
    """Data that the stage reads."""
    start_text: GeneralCorpus | None = None
    """Text on which the importance of the teacher's parts is measured for a student that starts here; null for `data`.

    The student of a recipe starts from the same parts, whichever stage or baseline is its first.
    """
    objective: Objective
    """Objective of the training."""
    training: Training
    """Settings of the training."""
