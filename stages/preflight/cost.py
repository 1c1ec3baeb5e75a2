"""What a stage will take: steps, tokens, operations, time, and room for the teacher's answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from schemas.data.stage_data import TaskDataset
from schemas.recipe.objective import MaskedLanguageObjective
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import StudentShape
from schemas.recipe.teacher import members_of
from stages.build import shares_of
from stages.data.batching.batches import Batches, torn_step
from stages.device.runtime import Runtime
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.models.student import encoder_flops, student_config
from stages.objective.objective import ObjectiveTerms
from stages.preflight.checks import Facts
from stages.stage_data import StageData, load_data
from stages.training.teacher_cache import pays, room_for

_STEPS_LOOKED_AT = 1000
_EFFICIENCY = 0.35
"""Share of the matrix rate that a training step reached in trials; only used to estimate times."""


@dataclass(frozen=True)
class Cost:
    """What a stage will take."""

    steps: int
    tokens: int
    flops: float
    """Of the encoders: teacher forward, student forward and backward."""
    seconds: float
    """Estimated; a first guess from this machine's matrix rate."""
    kept_bytes: int = 0
    """Room for what the teacher says about every row; 0 where it is asked in every epoch."""


def cost_of(
    config: StageConfig, facts: Facts, cache: Path, rate: float, *, room: float = 0.0, microbatch_tokens: int = 8192
) -> Cost:
    """Steps, tokens, operations and a first guess of the time of a stage.

    Args:
        config: the stage.
        facts: what `preflight` found.
        cache: folder of tokenised data.
        rate: floating-point operations per second of this machine, from `matrix_rate`.
        room: bytes that the teacher's answers may take.
        microbatch_tokens: padded tokens that one forward pass may hold.

    Raises:
        ConfigError: the objective compares rows that are not in one forward pass.
    """
    folder = locate(config.pretrained)
    training = config.training
    tokenizer = load_tokenizer(folder, load_config(folder))
    data = load_data(config.data, tokenizer, cache, training.selection)
    copies = 1
    if isinstance(config.data, TaskDataset) and config.data.augmentation is not None:
        # They are made when the stage runs: at most so many, about as long as the rows.
        copies += config.data.augmentation.copies
    lengths = np.tile(data.train.lengths, copies)
    batches = Batches(
        lengths,
        training.batch,
        microbatch_tokens=microbatch_tokens,
        seed=training.seed,
        mixture=data.train.mixture,
        choice_of=data.train.choice_of,
    )
    steps = batches.num_steps(training.duration)
    objective = _objective(config)
    if objective is not None and objective.couples_rows:
        _check_steps(config, batches, steps)
    tokens = sum(batches.tokens_in_step(step) for step in range(steps))
    length = data.train.num_tokens / max(len(data.train), 1)
    trained = config.student.shape if config.student else facts.teacher
    kept = copies * _room_for_answers(config, data, objective) if pays(batches, steps) else 0
    kept = kept if kept <= room else 0
    asked = copies * data.train.num_tokens if kept else tokens
    flops = 3 * _flops_per_token(trained, length) * tokens
    flops += len(members_of(config.teacher)) * _flops_per_token(facts.teacher, length) * asked
    return Cost(steps, tokens, flops, flops / (rate * _EFFICIENCY), kept)


def _check_steps(config: StageConfig, batches: Batches, steps: int) -> None:
    """Refuse a stage one of whose first steps is more than a forward pass holds."""
    for step in range(min(steps, _STEPS_LOOKED_AT)):
        if (passes := len(batches.step(step))) > 1:
            raise torn_step(config.training.batch, passes, batches.microbatch_tokens)


def _objective(config: StageConfig) -> ObjectiveTerms | None:
    """The stage's objective, on shapes alone; None without a teacher, and for masked words."""
    teachers = members_of(config.teacher)
    if not teachers or isinstance(config.objective, MaskedLanguageObjective):
        return None
    read = load_config(locate(config.pretrained))
    own = student_config(read, config.student.shape, config.student.model_type) if config.student else read
    with torch.device("meta"):  # the objective asks for nothing else
        student, teacher = AutoModel.from_config(own), AutoModel.from_config(read)
    return ObjectiveTerms(
        config.objective, student=student, teachers=[teacher] * len(teachers), seed=0, shares=shares_of(config)
    )


def _room_for_answers(config: StageConfig, data: StageData, objective: ObjectiveTerms | None) -> int:
    """Bytes of what all teachers say about every row; 0 where it changes from step to step, or there is no teacher."""
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


def _flops_per_token(shape: StudentShape, length: float) -> float:
    rows = max(int(length), 1)
    return encoder_flops(shape, sequence_length=rows) / rows


def matrix_rate(precision: str = "auto", *, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a square matrix product here, in the number format of a run."""
    runtime = Runtime("fp32" if precision == "fp32" else "bf16" if precision == "bf16" else "auto")
    number = torch.bfloat16 if runtime.bf16 else torch.float32
    matrix = torch.randn(size, size, device=runtime.device).to(number)
    matrix @ matrix
    began, products = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        matrix @ matrix
        products += 1
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
    return products * 2.0 * size**3 / elapsed
