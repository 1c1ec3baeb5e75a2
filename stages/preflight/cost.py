"""Cost of a stage: steps, tokens, operations, time, memory and disk space."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from schemas.data.stage_data import TaskDataset
from schemas.recipe.objective import MaskedLanguageObjective
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import members_of
from stages.build import shares_of
from stages.data.batching.batches import Batches, torn_step
from stages.device.runtime import Runtime
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.models.student import student_config
from stages.objective.objective import ObjectiveTerms
from stages.preflight.checks import PreflightResult
from stages.preflight.scale import Sizes, operations_per_token
from stages.stage_data import StageData, load_data
from stages.training.optimizer import head_steps
from stages.training.teacher_cache import pays, room_for

_CHECKED_STEPS = 1000
EFFICIENCY = 0.35
"""Share of the matrix rate that a training step reached in trials; used only for estimates of time."""


@dataclass(frozen=True)
class Cost:
    """Cost of a stage."""

    steps: int
    tokens: int
    flops: float
    """Operations of the encoders: teacher forward, student forward and backward."""
    seconds: float
    """Rough estimate for one process, from this machine's matrix rate."""
    kept_bytes: int
    """Size of the cache of the teacher's answers; 0 if the teacher runs in every epoch."""
    sizes: Sizes
    """Numbers that each process holds."""
    process_bytes: float
    """Memory of models, gradient and moments in each process, without activations; on an accelerator, in its own."""


def cost_of(
    config: StageConfig,
    facts: PreflightResult,
    cache: Path,
    rate: float,
    *,
    room: float = 0.0,
    microbatch_tokens: int = 8192,
    processes: int = 1,
    shards_teacher: bool = False,
) -> Cost:
    """Return steps, tokens, operations and a rough estimate of the time of a stage.

    Args:
        config: the stage.
        facts: result of `preflight`.
        cache: folder of tokenised data.
        rate: floating-point operations per second of this machine, from `matrix_rate`.
        room: bytes available for the teacher's answers.
        microbatch_tokens: padded tokens that one forward pass may hold.
        processes: number of processes that train the stage.
        shards_teacher: whether each holds only a part of the teachers, whose answers then are not kept.

    Raises:
        ConfigError: the objective compares rows of different forward passes, or teachers in 8-bit integers are asked
            for on an accelerator.
    """
    if config.training.teacher_precision == "int8":
        Runtime(config.training.precision).check_int8()
    folder, training, models, copies = locate(config.pretrained), config.training, _models(config), _most_copies(config)
    data = load_data(config.data, load_tokenizer(folder, load_config(folder)), cache, training.selection)
    batches = Batches.of_stage(data.train, training, config.name, microbatch_tokens=microbatch_tokens, copies=copies)
    steps = batches.num_steps(training.duration)
    objective = _objective(config, models)
    if objective is not None and objective.couples_rows:
        _check_steps(config, batches, steps, processes)
    tokens, frozen = (sum(map(batches.tokens_in_step, range(count))) for count in (steps, head_steps(training, steps)))
    is_kept = pays(batches, steps) and not shards_teacher
    answers = copies * _room_for_answers(config, data, objective) if is_kept else 0
    kept = answers if answers <= room else 0
    read = copies * data.train.num_tokens if kept else tokens
    flops = _operations(config, facts, data, tokens=tokens, frozen=frozen, read=read)
    sizes = _sizes(config, facts, models[0], objective)
    held = sizes.process_bytes(_teacher_bytes(config, processes if shards_teacher else 1))
    return Cost(steps, tokens, flops, flops / (rate * EFFICIENCY), kept, sizes, held)


def _operations(
    config: StageConfig, facts: PreflightResult, data: StageData, *, tokens: int, frozen: int, read: int
) -> float:
    """Return the operations of a stage's encoders.

    Args:
        config: the stage.
        facts: shapes of its models.
        data: its rows.
        tokens: tokens that the student reads.
        frozen: those of them at which its head learns alone.
        read: tokens that each teacher reads.
    """
    length = data.train.num_tokens / max(len(data.train), 1)
    trained = config.student.shape if config.student else facts.teacher
    # A backward pass costs two forward passes; the head alone does without one through the body.
    passes = 3 * tokens - 2 * frozen
    asked = len(members_of(config.teacher)) * read
    return operations_per_token(trained, length) * passes + operations_per_token(facts.teacher, length) * asked


def _most_copies(config: StageConfig) -> int:
    """Return how often a row is read in an epoch, at most: copies are made when the stage runs, as long as the rows."""
    augmentation = config.data.augmentation if isinstance(config.data, TaskDataset) else None
    return 1 if augmentation is None else 1 + augmentation.copies


def _check_steps(config: StageConfig, batches: Batches, steps: int, processes: int) -> None:
    """Refuse a stage if one of its first steps does not fit into one forward pass of each process."""
    for step in range(min(steps, _CHECKED_STEPS)):
        if (passes := max(map(len, batches.shares(step, processes)))) > 1:
            raise torn_step(config.training.batch, passes, batches.microbatch_tokens)


def _models(config: StageConfig) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return the trained model and a teacher on the meta device, where they are shapes alone."""
    read = load_config(locate(config.pretrained))
    trained = student_config(read, config.student.shape, config.student.model_type) if config.student else read
    with torch.device("meta"):
        return AutoModel.from_config(trained), AutoModel.from_config(read)


def _objective(config: StageConfig, models: tuple[PreTrainedModel, PreTrainedModel]) -> ObjectiveTerms | None:
    """Return the stage's objective; None without a teacher, and for masked words."""
    teachers = members_of(config.teacher)
    if not teachers or isinstance(config.objective, MaskedLanguageObjective):
        return None
    student, teacher = models
    return ObjectiveTerms(
        config.objective, student=student, teachers=[teacher] * len(teachers), seed=0, shares=shares_of(config)
    )


def _room_for_answers(config: StageConfig, data: StageData, objective: ObjectiveTerms | None) -> int:
    """Return the bytes of all teachers' answers for every row; 0 if they change between steps, or without a teacher."""
    if objective is None or objective.changes_rows:
        return 0
    read = load_config(locate(config.pretrained))
    number_bytes = 2 if Runtime(config.training.precision).bf16 else 4
    return sum(
        room_for(
            objective.teacher_needs(index), read, data.train, num_outputs=len(data.labels), number_bytes=number_bytes
        )
        for index in range(len(members_of(config.teacher)))
    )


def _sizes(
    config: StageConfig, facts: PreflightResult, trained: PreTrainedModel, objective: ObjectiveTerms | None
) -> Sizes:
    table = trained.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    return Sizes(
        student=sum(parameter.numel() for parameter in trained.parameters()),
        projections=0 if objective is None else sum(parameter.numel() for parameter in objective.parameters()),
        frozen=table.numel() if config.training.frozen == "word_embeddings" else 0,
        teachers=facts.teacher_parameters * len(members_of(config.teacher)),
        keeps_best=config.training.selection is not None,
    )


def _teacher_bytes(config: StageConfig, parts: int) -> float:
    """Return the bytes of a teacher's parameter, at most: of its copy in the run's format, and of what was loaded.

    What was loaded stays in the memory of the CPU; weights in 8 bits are counted as if they were not.

    Args:
        config: the stage.
        parts: parts into which the copy is divided.
    """
    runtime = Runtime(config.training.precision)
    return (2 if runtime.bf16 else 4) / parts + (4 if runtime.device.type == "cpu" else 0)


def matrix_rate(precision: str = "auto", *, size: int = 1024, seconds: float = 0.3) -> float:
    """Return the floating-point operations per second of a square matrix product, in the number format of a run."""
    runtime = Runtime("fp32" if precision == "fp32" else "bf16" if precision == "bf16" else "auto")
    number = torch.bfloat16 if runtime.bf16 else torch.float32
    matrix = torch.randn(size, size, device=runtime.device).to(number)
    linear = runtime.frozen(nn.Linear(size, size, bias=False))
    linear(matrix)
    began, products = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        linear(matrix)
        products += 1
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
    return products * 2.0 * size**3 / elapsed
