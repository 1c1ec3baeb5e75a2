"""The parts of a recipe, before it is known whether they fit together."""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from schemas.core.base import Frozen
from schemas.data.augmentation import Augmentation
from schemas.data.cards import DataLimits
from schemas.data.corpus import GeneralCorpus
from schemas.data.task_names import named_tasks
from schemas.data.tasks import TaskData
from schemas.recipe.stage import Stage
from schemas.recipe.student import StudentConfig
from schemas.recipe.teacher import TeacherConfig

Tasks = Annotated[
    dict[str, TaskData], BeforeValidator(named_tasks, json_schema_input_type=dict[str, TaskData] | list[str])
]


class Evaluation(Frozen):
    """The common yardstick put to every checkpoint of a run."""

    probe_train_rows: int = Field(default=2000, ge=10)
    """Training rows whose frozen features the linear probe is fitted on, drawn by class."""
    max_rows: int = Field(default=2000, ge=10)
    """Validation rows used at most, drawn by class; the report says how many of how many."""
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
    gradient_share_every: int | None = Field(default=200, ge=1)
    """Steps between two measurements of each term's share of the gradient; null for none."""
    teacher_cache_gigabytes: float = Field(default=4.0, ge=0, le=1e6)
    """Most room on disk, while a stage trains, for what the teacher says about every row; used by stages of more than
    one epoch, whose teacher is then asked once. 0 for none."""


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


class RecipeParts(Frozen):
    """The fields of a recipe; `Recipe` adds the checks across them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]{0,63}$")
    """Short name: lower-case letters, digits, - and _."""
    description: str = Field(min_length=1, max_length=500)
    """One line for `distill recipes`."""
    teacher: TeacherConfig
    """Whom the student learns from."""
    student: StudentConfig
    """What is trained."""
    task: TaskData | None = None
    """Labelled data; null for recipes that stay general, or have several tasks."""
    tasks: Tasks | None = None
    """Several tasks by name in the place of one: what does not depend on the task is done once, the rest for each."""
    augmentation: Augmentation | None = None
    """Copies of the task's training rows for stages whose data is `augmented_task_data`; null for none."""
    general_corpus: GeneralCorpus | None = None
    """Running text; null for recipes without a general stage."""
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=4)
    """What is done, in order; each stage at most once."""
    baselines: tuple[Literal["hard_labels", "bag_of_words"], ...] = ()
    """What the result is compared with: the same student on hard labels alone, a bag-of-words classifier."""
    evaluation: Evaluation = Evaluation()
    """The common yardstick."""
    limits: DataLimits = DataLimits()
    """How much of the data may be odd; a run on more of it is refused before anything is trained."""
    execution: Execution = Execution()
    """How it is run here."""

    def shared_stages(self) -> tuple[Stage, ...]:
        """The stages, from the first on, that are the same whatever the task."""
        return tuple(
            takewhile(lambda stage: stage.data == "general_corpus" and stage.teacher != "fine_tuned", self.stages)
        )
