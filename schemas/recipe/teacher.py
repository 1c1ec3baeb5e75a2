"""Teachers: the pretrained model, its fine-tuning on the task, and several teachers together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from schemas.core.base import Frozen, Sha256
from schemas.core.part_names import check_names
from schemas.core.refs import AnyModel, FolderModel, ModelRef, TeacherRef, parse_model
from schemas.core.training import BatchSize, Duration, Selection, Training
from schemas.data.tasks import TaskData

MAX_CANDIDATES = 64
HELD_OUT = Selection(rows="held_out", patience=None)
"""Selection of several candidates that have none: nothing may be chosen on rows that are reported."""
_MAX_SEED = 2**31


class Grid(Frozen):
    """Settings of a fine-tuning to try, in all combinations."""

    learning_rate: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Peak learning rates; here as in every field, empty keeps the value of `training`."""
    batch: tuple[BatchSize, ...] = ()
    """Sizes of an optimizer step."""
    duration: tuple[Duration, ...] = ()
    """Lengths of the training."""
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)] | None, ...] = ()
    """Dropout probabilities; null for the dropout of the model config."""
    seed: tuple[Annotated[int, Field(ge=0, lt=_MAX_SEED)], ...] = ()
    """Seeds."""

    @model_validator(mode="after")
    def _values_differ(self) -> Grid:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"{name}: a value is listed twice; list each once")
        return self


class FineTune(Frozen):
    """Fine-tune the pretrained teacher on the task first; the result is stored and reused like a stage."""

    kind: Literal["fine_tune"] = "fine_tune"
    training: Training
    """Settings of the fine-tuning on hard labels."""
    seeds: int = Field(default=1, ge=1, le=MAX_CANDIDATES)
    """Number of seeds to try, from the seed of `training`; the best candidate becomes the teacher."""
    grid: Grid = Grid()
    """Settings to try with every seed. The best candidate becomes the teacher, by the score of `training.selection`.
    Without one, several candidates are trained to their end, and weights and candidate are chosen by the task's main
    score on training rows that are held out."""

    @model_validator(mode="after")
    def _not_too_many(self) -> FineTune:
        if self.grid.seed and self.seeds > 1:
            raise ValueError("seeds and grid.seed both list seeds to try; leave one out")
        if self.training.seed + self.seeds > _MAX_SEED:
            raise ValueError(f"seeds: {self.seeds} from training.seed on pass {_MAX_SEED - 1}")
        if self.number_of_candidates > MAX_CANDIDATES:
            raise ValueError(
                f"grid: it makes {self.number_of_candidates} fine-tunings, and at most {MAX_CANDIDATES} are allowed; "
                "list fewer values or fewer seeds"
            )
        return self

    @property
    def number_of_candidates(self) -> int:
        """Number of fine-tunings that are compared."""
        return self.seeds * prod(max(1, len(getattr(self.grid, name))) for name in Grid.model_fields)

    def candidates(self) -> tuple[Training, ...]:
        """Return the settings of all candidates; the seed varies fastest."""
        grid, training = self.grid, self.training
        if self.number_of_candidates > 1 and training.selection is None:
            training = training.model_copy(update={"selection": HELD_OUT})
        seeds = grid.seed or tuple(range(training.seed, training.seed + self.seeds))
        combinations = product(
            grid.learning_rate or (training.optimizer.learning_rate,),
            grid.batch or (training.batch,),
            grid.duration or (training.duration,),
            grid.dropout or (training.dropout,),
            seeds,
        )
        return tuple(
            training.model_copy(
                update={
                    "optimizer": training.optimizer.model_copy(update={"learning_rate": learning_rate}),
                    "batch": batch,
                    "duration": duration,
                    "dropout": dropout,
                    "seed": seed,
                }
            )
            for learning_rate, batch, duration, dropout, seed in combinations
        )


class AlreadyFineTuned(Frozen):
    """A model that is already fine-tuned on the task, with its head."""

    kind: Literal["given"] = "given"
    model: ModelRef
    """The model."""


TaskTeacher = Annotated[FineTune | AlreadyFineTuned, Field(discriminator="kind")]


class MultiTask(Frozen):
    """A teacher fine-tuned on several tasks together, with a head for each (ERNIE 3.0 Tiny)."""

    tasks: Annotated[dict[str, TaskData], AfterValidator(check_names)] = Field(min_length=2)
    """The tasks by the names that prefix their classes, such as `sst2/positive`."""
    training: Training
    """Settings of the fine-tuning on hard labels; every batch mixes the tasks in proportion to their rows."""


class OtherTeacher(Frozen):
    """Another teacher with the same vocabulary."""

    model: ModelRef
    """The pretrained encoder."""
    task_model: TaskTeacher | None = None
    """Its fine-tuned version; null for recipes that do not need one."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Weight relative to the first teacher's 1; weights are scaled to sum to 1."""


class TeacherConfig(Frozen):
    """The teachers that the student learns from."""

    model: TeacherRef
    """The pretrained encoder: a hub id, a folder, `package:NAME`, or the student of another recipe."""
    task_model: TaskTeacher | None = None
    """The fine-tuned teacher; null for recipes that do not need one."""
    multi_task: MultiTask | None = None
    """The teacher of stages with `teacher: multi_task`; null for none."""
    others: tuple[OtherTeacher, ...] = Field(default=(), max_length=7)
    """Further teachers, used together with the first."""
    weighting: Literal["fixed", "confidence"] = "fixed"
    """Weights of several teachers: fixed, or per row by their confidence in the label (CA-MKD)."""
    minimum_gain: float = Field(default=0.05, ge=0, lt=1)
    """Least share (0 to 1) of the possible gain over the best constant prediction that a fine-tuned teacher must reach,
    by the task's metric: if that prediction scores 0.97, 0.05 requires 0.9715."""


class PretrainedTeacher(Frozen):
    """The pretrained model as a stage's teacher."""

    kind: Literal["pretrained"] = "pretrained"
    model: ModelRef
    """The model."""


TeacherStageName = Literal["teacher", "other_teacher", "multi_task_teacher"]


class StageModel(Frozen):
    """A model that a fine-tuning of this project makes; whoever uses it asks the store for its folder."""

    kind: Literal["stage"] = "stage"
    stage: TeacherStageName
    """The fine-tuning, whose digest is beside it."""


class FinetunedTeacher(Frozen):
    """A fine-tuned model as a stage's teacher."""

    kind: Literal["fine_tuned"] = "fine_tuned"
    model: Annotated[AnyModel | StageModel, Field(discriminator="kind"), BeforeValidator(parse_model)]
    """A published model, a model of this project, or the folder of such a model, as earlier versions recorded it."""
    stage_digest: Sha256 | None = None
    """Digest of the fine-tuning in this project that makes it, which identifies it before it exists; null otherwise."""

    @model_validator(mode="after")
    def _identified(self) -> FinetunedTeacher:
        if isinstance(self.model, StageModel) and self.stage_digest is None:
            raise ValueError(f"model: {self.model.stage} is identified by stage_digest, which is missing")
        return self


SingleTeacher = Annotated[PretrainedTeacher | FinetunedTeacher, Field(discriminator="kind")]


class Committee(Frozen):
    """Several models as a stage's teacher."""

    kind: Literal["committee"] = "committee"
    members: tuple[SingleTeacher, ...] = Field(min_length=2)
    """The teachers; the common yardstick compares with the first."""
    weights: tuple[float, ...]
    """Weights, which sum to 1."""
    weighting: Literal["fixed", "confidence"] = "fixed"
    """Fixed weights, or weights per row by each teacher's confidence in the label."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Committee:
        if len(self.weights) != len(self.members):
            raise ValueError(f"weights: {len(self.weights)} given for {len(self.members)} teachers; give one each")
        return self


StageTeacher = Annotated[PretrainedTeacher | FinetunedTeacher | Committee, Field(discriminator="kind")]


def members_of(
    teacher: PretrainedTeacher | FinetunedTeacher | Committee | None,
) -> tuple[PretrainedTeacher | FinetunedTeacher, ...]:
    """Return the models that a stage learns from."""
    if teacher is None:
        return ()
    return teacher.members if isinstance(teacher, Committee) else (teacher,)


Teacher = TypeVar("Teacher", bound=PretrainedTeacher | FinetunedTeacher | Committee | None)


def located(teacher: Teacher, folder_of: Callable[[TeacherStageName, str], Path]) -> Teacher:
    """Return the teacher with the folders of the models that this project made, to be read and not to be kept.

    Args:
        teacher: a stage's teacher.
        folder_of: returns the folder of a finished stage by its name and digest.
    """
    if isinstance(teacher, Committee):
        return teacher.model_copy(update={"members": tuple(located(one, folder_of) for one in teacher.members)})
    if not isinstance(teacher, FinetunedTeacher) or not isinstance(teacher.model, StageModel):
        return teacher
    folder = folder_of(teacher.model.stage, str(teacher.stage_digest)) / "model"
    return teacher.model_copy(update={"model": FolderModel(path=str(folder))})


def settings_of(training: Training, among: Sequence[Training]) -> str:
    """Return the settings that tell a candidate from others, such as `learning_rate 2e-05, seed 1`; empty if alone."""
    candidates = [_settings(candidate) for candidate in among]
    return ", ".join(
        f"{name} {value}"
        for name, value in _settings(training).items()
        if len({candidate[name] for candidate in candidates}) > 1
    )


def _settings(training: Training) -> dict[str, str]:
    dropout = "the model's" if training.dropout is None else f"{training.dropout:g}"
    return {
        "learning_rate": f"{training.optimizer.learning_rate:g}",
        "batch": str(training.batch),
        "duration": str(training.duration),
        "dropout": dropout,
        "seed": str(training.seed),
    }
