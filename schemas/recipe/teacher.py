"""The teachers: the pretrained model, how one becomes expert in the task, and several at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.core.base import Frozen, Sha256
from schemas.core.part_names import TaskNames
from schemas.core.refs import ModelRef, TeacherRef
from schemas.core.training import BatchSize, Duration, Training
from schemas.data.tasks import TaskData

MAX_CANDIDATES = 64
_MAX_SEED = 2**31


class Grid(Frozen):
    """Settings of a training run that are tried, every value with every value of the others."""

    learning_rate: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Peak learning rates; empty keeps that of `training`, as with every setting here."""
    batch: tuple[BatchSize, ...] = ()
    """Sizes of an optimizer step."""
    duration: tuple[Duration, ...] = ()
    """Lengths."""
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)] | None, ...] = ()
    """Dropout probabilities; null for the model's own."""
    seed: tuple[Annotated[int, Field(ge=0, lt=_MAX_SEED)], ...] = ()
    """Seeds."""

    @model_validator(mode="after")
    def _values_differ(self) -> Grid:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"{name}: a value is listed twice; list each once")
        return self


class FineTune(Frozen):
    """Fine-tune the pretrained teacher on the task first; the result is kept and reused like a stage."""

    kind: Literal["fine_tune"] = "fine_tune"
    training: Training
    """How it is fine-tuned (hard labels)."""
    seeds: int = Field(default=1, ge=1, le=MAX_CANDIDATES)
    """How many seeds are tried, from that of `training` on; the teacher with the best score is taken."""
    grid: Grid = Grid()
    """Settings that are tried with every seed. Each candidate is a fine-tuning of its own, and the best is the teacher:
    by the score of `training.selection`, or without one by the task's main score on all validation rows."""

    @model_validator(mode="after")
    def _not_too_many(self) -> FineTune:
        if self.grid.seed and self.seeds > 1:
            raise ValueError("seeds and grid.seed both say which seeds are tried; leave one out")
        if self.training.seed + self.seeds > _MAX_SEED:
            raise ValueError(f"seeds: {self.seeds} from training.seed on pass {_MAX_SEED - 1}")
        given = [getattr(self.grid, name) for name in Grid.model_fields]
        number = self.seeds * prod(max(1, len(values)) for values in given)
        if number > MAX_CANDIDATES:
            raise ValueError(
                f"grid: it makes {number} fine-tunings, and at most {MAX_CANDIDATES} are tried; name fewer values or "
                "fewer seeds"
            )
        return self

    def candidates(self) -> tuple[Training, ...]:
        """Every fine-tuning that is tried, seed after seed of one setting of the grid after the other."""
        grid, own = self.grid, self.training
        seeds = grid.seed or tuple(range(own.seed, own.seed + self.seeds))
        found = product(
            grid.learning_rate or (own.optimizer.learning_rate,),
            grid.batch or (own.batch,),
            grid.duration or (own.duration,),
            grid.dropout or (own.dropout,),
            seeds,
        )
        return tuple(
            own.model_copy(
                update={
                    "optimizer": own.optimizer.model_copy(update={"learning_rate": learning_rate}),
                    "batch": batch,
                    "duration": duration,
                    "dropout": dropout,
                    "seed": seed,
                }
            )
            for learning_rate, batch, duration, dropout, seed in found
        )


class AlreadyFineTuned(Frozen):
    """A model somebody has fine-tuned on the task, with its classification head."""

    kind: Literal["given"] = "given"
    model: ModelRef
    """Where it is."""


TaskTeacher = Annotated[FineTune | AlreadyFineTuned, Field(discriminator="kind")]


class MultiTask(Frozen):
    """One teacher fine-tuned on several tasks at once, each with a head of its own (ERNIE 3.0 Tiny)."""

    tasks: Annotated[dict[str, TaskData], TaskNames] = Field(min_length=2)
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
    """Share (0 to 1) of what is left to gain over always giving the best constant answer that a fine-tuned teacher must
    have gained, by the task's metric: where that answer gets 0.97, 0.05 asks for 0.9715."""


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
            raise ValueError(f"weights: {len(self.weights)} given for {len(self.members)} teachers; give one each")
        return self


StageTeacher = Annotated[PretrainedTeacher | FinetunedTeacher | Committee, Field(discriminator="kind")]


def members_of(
    teacher: PretrainedTeacher | FinetunedTeacher | Committee | None,
) -> tuple[PretrainedTeacher | FinetunedTeacher, ...]:
    """The models that a stage learns from: none, one or several."""
    if teacher is None:
        return ()
    return teacher.members if isinstance(teacher, Committee) else (teacher,)


def settings_of(training: Training, among: Sequence[Training]) -> str:
    """What tells one candidate from the others, in words: `learning_rate 2e-05, seed 1`; empty where it is alone."""
    named = [_settings(each) for each in among]
    return ", ".join(
        f"{name} {value}" for name, value in _settings(training).items() if len({other[name] for other in named}) > 1
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
