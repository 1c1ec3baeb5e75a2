"""Checks a recipe against the models and the data it names, before any long work, and says what it will cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from schemas.errors import ConfigError, DataError
from schemas.objective import AttentionScores
from schemas.recipe import Recipe, latent_of
from schemas.refs import describe_model
from schemas.stage import StageConfig
from schemas.student import StudentShape
from schemas.teacher import AlreadyFineTuned
from stages.batches import Batches
from stages.encoders import (
    capturable,
    has_trained_head,
    load_classifier,
    load_config,
    load_tokenizer,
    locate,
    shape_of,
)
from stages.run import check_labels, load_data
from stages.runtime import Runtime
from stages.sources import load_corpus, load_task
from stages.student import count_parameters, encoder_flops, student_config

_EFFICIENCY = 0.35
"""Share of the matrix rate that a training step reached in trials; only used to estimate times."""


@dataclass(frozen=True)
class Facts:
    """What the look at models and data found."""

    teacher: StudentShape
    student: StudentShape
    teacher_parameters: int
    student_parameters: int
    labels: tuple[str, ...]


def preflight(recipe: Recipe, cache: Path) -> Facts:
    """Look at everything the recipe names.

    Raises:
        ConfigError: the recipe does not fit the teacher; every problem at once.
        DataError: a model or a data set is missing or cannot be used as it is.
        ServiceError: a model hub is needed and cannot be reached.
    """
    folder = locate(recipe.teacher.model)
    config = load_config(folder)
    shape = shape_of(config)
    problems = recipe.problems_with(shape)
    if not problems:
        problems += _capture_problems(recipe, config)
    if problems:
        raise ConfigError([f"recipe {recipe.name}: {problem}" for problem in problems])
    load_tokenizer(folder, config)
    labels: tuple[str, ...] = ()
    if recipe.task is not None:
        labels = load_task(recipe.task, cache).labels
    if recipe.general_corpus is not None:
        load_corpus(recipe.general_corpus, cache)
    if isinstance(recipe.teacher.task_model, AlreadyFineTuned):
        _check_given_teacher(recipe.teacher.task_model, labels, shape.vocab_size)
    return Facts(
        teacher=StudentShape(**{name: getattr(shape, name) for name in StudentShape.model_fields}),
        student=recipe.student.shape,
        teacher_parameters=count_parameters(config),
        student_parameters=count_parameters(student_config(config, recipe.student.shape)),
        labels=labels,
    )


def _capture_problems(recipe: Recipe, config: PretrainedConfig) -> list[str]:
    wanting = [
        index
        for index, stage in enumerate(recipe.stages)
        if (latent := latent_of(stage.objective))
        and any(isinstance(term, AttentionScores) for term in latent.terms)
    ]
    if not wanting or capturable(config):
        return []
    return [
        f"stages[{index}].objective.terms: attention scores cannot be read from a {config.model_type} model "
        f"({describe_model(recipe.teacher.model)}); leave the attention term out, or take another teacher"
        for index in wanting
    ]


def _check_given_teacher(given: AlreadyFineTuned, labels: tuple[str, ...], vocab_size: int) -> None:
    folder = locate(given.model)
    name = describe_model(given.model)
    if not has_trained_head(folder):
        raise DataError(
            f"teacher.task_model: {name} has no trained classification head (no classifier weights in its files), but "
            "a fine-tuned teacher is needed; give one, or set teacher.task_model.kind to fine_tune"
        )
    config = load_config(folder)
    if config.vocab_size != vocab_size:
        raise DataError(
            f"teacher.task_model: {name} has a vocabulary of {config.vocab_size} tokens, the pretrained teacher "
            f"{vocab_size}; both must share one tokenizer"
        )
    check_labels(load_classifier(folder), labels, folder)


@dataclass(frozen=True)
class Cost:
    """What a stage will take."""

    steps: int
    tokens: int
    flops: float
    """Of the encoders: teacher forward, student forward and backward."""
    seconds: float
    """Estimated; a first guess from this machine's matrix rate."""


def cost_of(config: StageConfig, facts: Facts, cache: Path, rate: float) -> Cost:
    """Steps, tokens, operations and a first guess of the time of a stage.

    Args:
        config: the stage.
        facts: what `preflight` found.
        cache: folder of tokenised data.
        rate: floating-point operations per second of this machine, from `matrix_rate`.
    """
    folder = locate(config.pretrained)
    data = load_data(config.data, load_tokenizer(folder, load_config(folder)), cache)
    training = config.training
    batches = Batches(
        data.train.lengths, training.batch, microbatch_tokens=8192, seed=training.seed
    )
    steps = batches.num_steps(training.duration)
    tokens = sum(batches.tokens_in_step(step) for step in range(steps))
    length = data.train.num_tokens / max(len(data.train), 1)
    trained = config.student.shape if config.student else facts.teacher
    per_token = 3 * _flops_per_token(trained, length)
    if config.teacher is not None:
        per_token += _flops_per_token(facts.teacher, length)
    flops = per_token * tokens
    return Cost(steps, tokens, flops, flops / (rate * _EFFICIENCY))


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
