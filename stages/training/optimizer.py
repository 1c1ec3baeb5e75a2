"""What is trained, with which decay, and how fast at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from schemas.core.training import AdamW, Schedule


def named_parameters(student: nn.Module, objective: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Everything that is trained, under names that stay the same from run to run."""
    for prefix, module in (("student", student), ("objective", objective)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: AdamW, device: torch.device) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only: biases and normalisation weights (one dimension) are left alone."""
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
    """Share of the peak learning rate that optimizer step `step` (0 the first) is taken with.

    Rises linearly to 1 over the warm-up, whose first step already moves; then stays, or falls linearly so that the
    step after the last would have 0.
    """
    warmup = math.ceil(schedule.warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    return (num_steps - step) / max(num_steps - warmup, 1)
