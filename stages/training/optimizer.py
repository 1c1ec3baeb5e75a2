"""Trained parameters, AdamW, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from schemas.core.training import AdamW, Schedule, Training


def freeze(student: nn.Module, training: Training) -> None:
    """Exclude from training what the stage keeps as it is: nothing, or the table of word embeddings."""
    if training.frozen == "word_embeddings":
        student.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]


def named_parameters(student: nn.Module, objective: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Yield all trained parameters with names that are stable between runs."""
    for prefix, module in (("student", student), ("objective", objective)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: AdamW, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, not on biases and normalisation weights."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Return the factor on the peak learning rate in optimizer step `step` (0 is the first).

    Rises linearly to 1 over the warm-up, starting above 0, then stays constant or falls linearly to 0 at the step after
    the last.
    """
    warmup = math.ceil(schedule.warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    return (num_steps - step) / max(num_steps - warmup, 1)


def head_steps(training: Training, num_steps: int) -> int:
    """Return the number of steps, the first of `num_steps`, in which the head learns alone."""
    return 0 if training.head_first is None else math.floor(training.head_first.share * num_steps)


def learning_rate(training: Training, step: int, num_steps: int) -> float:
    """Return the learning rate in optimizer step `step` (0 is the first) of `num_steps`.

    The head alone has a rate of its own, which falls linearly to 0; the schedule begins where the body joins, so that
    the body's first steps are small.
    """
    alone = head_steps(training, num_steps)
    if training.head_first is not None and step < alone:
        return training.head_first.learning_rate * (alone - step) / alone
    factor = learning_rate_factor(training.schedule, step - alone, num_steps - alone)
    return training.optimizer.learning_rate * factor
