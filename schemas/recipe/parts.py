"""The fields of a recipe, before the checks across them."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from schemas.core.base import Frozen
from schemas.core.wording import shown_value
from schemas.data.augmentation import Augmentation
from schemas.data.cards import DataLimits
from schemas.data.corpus import GeneralCorpus
from schemas.data.task_names import named_tasks
from schemas.data.tasks import TaskData
from schemas.recipe.short_forms import expanded
from schemas.recipe.stage import Stage, StageName
from schemas.recipe.student import RecipeStudent, StudentConfig, StudentShape
from schemas.recipe.teacher import TeacherConfig

Tasks = Annotated[
    dict[str, TaskData], BeforeValidator(named_tasks, json_schema_input_type=dict[str, TaskData] | list[str])
]


class Evaluation(Frozen):
    """The common yardstick that measures every checkpoint of a run."""

    probe_train_rows: int = Field(default=2000, ge=10)
    """Training rows on whose frozen features the linear probe is fitted, drawn by class."""
    max_rows: int = Field(default=2000, ge=10)
    """Most validation rows that are scored, drawn by class."""
    latent_rows: int = Field(default=256, ge=1)
    """Held-out rows on which the latent loss is measured."""


_MOST_PROCESSES = 64


def _number_or_auto(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= _MOST_PROCESSES):
        return value
    raise ValueError(f"expected a whole number from 1 to {_MOST_PROCESSES}, or auto")


class Launch(Frozen):
    """The processes in which a stage is trained."""

    processes: Annotated[
        Annotated[int, Field(ge=1, le=_MOST_PROCESSES)] | Literal["auto"], BeforeValidator(_number_or_auto)
    ] = 1
    """Processes of each machine that share the rows of every step; `auto`: one for each GPU. Each has a GPU of its own,
    or its share of the CPU's cores."""
    machines: int = Field(default=1, ge=1, le=64)
    """Machines that train a stage together: this one, and others on which `distill join` runs."""
    rendezvous: str | None = None
    """HOST:PORT at which the others find this machine: an address of this machine in the network that they share, and
    a port that nothing uses."""
    teacher: Literal["replicated", "sharded"] = "replicated"
    """`replicated`: each process holds all of a teacher. `sharded`: a part of every block, and all of one at a time,
    for teachers that do not fit; slower, and their answers are not kept."""
    timeout_minutes: float = Field(default=10.0, gt=0)
    """Minutes after which a process gives up that waits for another, or a run that waits for a machine."""

    @model_validator(mode="after")
    def _meets(self) -> Launch:
        if self.rendezvous is not None:
            host_and_port(self.rendezvous)
        elif self.machines > 1:
            raise ValueError(
                f"machines: {self.machines} need a rendezvous, HOST:PORT: an address of this machine that the others "
                "reach, such as 10.0.0.1:29400"
            )
        return self


def host_and_port(text: str) -> tuple[str, int]:
    """Return the parts of HOST:PORT; raises ValueError for anything else."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535 or not set(host).isdisjoint(" /@"):
        raise ValueError(f"expected HOST:PORT, such as 10.0.0.1:29400, not {text!r}")
    return host, int(port)


def _pool_name(name: str) -> str:
    if not re.fullmatch(r"[^\s/%&<>][^/%&<>]{0,199}", name):
        raise ValueError(f"{shown_value(name)} is no name of a work pool; `prefect work-pool ls` lists them")
    return name


class Engine(Frozen):
    """The machines on which the runs of several tasks and seeds go on."""

    kind: Literal["threads", "ray"] = "threads"
    """`threads`: this machine, which starts a process for each run if several go on at once. `ray`: a Ray cluster, each
    run a task of it; needs the extra `ray`, and Prefect's server in PREFECT_API_URL."""
    at_once: int = Field(default=1, ge=1, le=64)
    """Runs that go on at once on this machine. A Ray cluster runs as many as its resources allow."""
    gpus_each: int | None = Field(default=None, ge=0, le=64)
    """GPUs of each run; null for one where there are GPUs."""
    cpus_each: int = Field(default=1, ge=1, le=1024)
    """Cores of each run on a Ray cluster; on this machine, runs share the cores out."""
    address: str | None = Field(default=None, min_length=1, max_length=300)
    """Address of the Ray cluster, such as ray://HOST:10001; null for one of this machine that ends with the run."""

    @property
    def is_apart(self) -> bool:
        """True if runs go on in processes of their own."""
        return self.kind == "ray" or self.at_once > 1


class Execution(Frozen):
    """Settings of this machine. They do not change what is learned, so no digest covers them."""

    launch: Launch = Launch()
    """The processes in which a stage is trained."""
    engine: Engine = Engine()
    """The machines on which the runs of several tasks and seeds go on."""
    pools: dict[StageName, Annotated[str, AfterValidator(_pool_name)]] = Field(default_factory=dict)
    """Stages that workers of Prefect train elsewhere, each with the name of their work pool, or of a deployment
    distill-stage/NAME; all others are trained here."""
    pool_minutes: float = Field(default=10.0, ge=1)
    """Minutes after which a stage on a work pool is given up if no worker takes it, or if its worker is silent."""
    microbatch_tokens: int = Field(default=8192, ge=16)
    """Largest forward pass in padded tokens; lower it if memory runs out."""
    log_every: int = Field(default=10, ge=1)
    """Optimizer steps between two logged points."""
    state_minutes: float = Field(default=2.0, gt=0)
    """Most minutes of work that are lost if the process dies."""
    gradient_share_every: int | None = Field(default=200, ge=1)
    """Optimizer steps between two measurements of each term's share of the gradient; null for none."""
    teacher_cache_gigabytes: float = Field(default=4.0, ge=0, le=1e6)
    """Most disk space for the teacher's answers to every row while a stage trains; used by stages of several epochs,
    whose teacher then reads each row once. 0 disables the cache."""

    @model_validator(mode="after")
    def _pools_train_alone(self) -> Execution:
        if self.pools and self.launch.machines > 1:
            raise ValueError(
                f"launch.machines: {self.launch.machines}, but a stage on a work pool is trained by its worker alone; "
                "leave out pools, or set machines to 1"
            )
        return self


MAX_SEEDS = 64


def _check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{', '.join(map(str, repeated))} is listed twice; list each seed once")
    if len(seeds) > MAX_SEEDS:
        raise ValueError(f"{len(seeds)} seeds, and at most {MAX_SEEDS} are allowed")
    return seeds


class TeacherShape(Frozen):
    """Sizes of a teacher, against which a recipe is checked."""

    num_layers: int
    """Transformer blocks."""
    hidden_size: int
    """Width of the hidden states."""
    num_attention_heads: int
    """Attention heads per block."""
    intermediate_size: int
    """Neurons of a block's feed-forward part."""
    vocab_size: int
    """Rows of the token embedding."""
    max_positions: int
    """Longest sequence in tokens."""


class RecipeParts(Frozen):
    """The fields of a recipe; `Recipe` adds the checks across them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]{0,63}$")
    """Short name: lower-case letters, digits, - and _."""
    description: str = Field(default="", max_length=500)
    """Description in one line, for `distill recipes`."""
    teacher: TeacherConfig
    """Teachers that the student learns from; in short one model: ./folder, a hub id, or package:NAME."""
    student: RecipeStudent
    """The model that is trained."""
    task: TaskData | None = None
    """Labelled data; null for general recipes, and for recipes with several tasks."""
    tasks: Tasks | None = None
    """Several tasks by name, instead of one: stages that do not depend on the task run once, all others per task."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], AfterValidator(_check_seeds)] = ()
    """Seeds to run the recipe with, such as [0, 1, 2]: each takes the place of every `seed` below `student` and
    `stages`, and so decides the student's start, all stages and the baseline hard_labels. Teachers and data keep the
    seeds of the recipe and are made once. Empty for one run with the seeds of the recipe."""
    augmentation: Augmentation | None = None
    """Copies of the task's training rows for stages whose data is `augmented_task_data`; null for none."""
    general_corpus: GeneralCorpus | None = None
    """Running text; null for recipes without a general stage. In short its sources: ./folder, or a list."""
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=4)
    """Stages in order, each at most once; a name alone stands for the stage with the usual settings."""
    baselines: tuple[Literal["hard_labels", "bag_of_words"], ...] = ()
    """Baselines for comparison: the same student on hard labels alone, and a bag-of-words classifier."""
    hard_labels_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate of the baseline hard_labels, where labels alone learn best with another; null for that of
    the last stage."""
    evaluation: Evaluation = Evaluation()
    """The common yardstick."""
    limits: DataLimits = DataLimits()
    """Limits on odd rows of the data; a run on more of them is refused before anything is trained."""
    execution: Execution = Execution()
    """Settings of this machine."""

    @model_validator(mode="before")
    @classmethod
    def _long_form(cls, value: Any) -> Any:
        return expanded(value)

    @property
    def sized_student(self) -> StudentConfig:
        """The student with its sizes; those that are the teacher's must have been looked up before."""
        student = self.student
        assert not student.missing_sizes, "look up the teacher's sizes first"
        return StudentConfig(
            shape=StudentShape(**dict(student.shape)), model_type=student.model_type, start=student.start
        )

    def shared_stages(self) -> tuple[Stage, ...]:
        """Return the first stages, up to the first that depends on the task."""
        return tuple(
            takewhile(lambda stage: stage.data == "general_corpus" and stage.teacher != "fine_tuned", self.stages)
        )
