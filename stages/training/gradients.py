"""What can be read off, and done with, a gradient beside the step itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages.data.batching.tokens import Batch
from stages.device.runtime import Runtime
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import run_model

_SHARE_TOKENS = 512
"""Padded tokens that shares are measured on at most: a backward pass per term is what it costs."""


def first_rows(batch: Batch) -> Batch:
    """The rows of a microbatch that shares are measured on."""
    return batch.first(max(1, _SHARE_TOKENS // batch.input_ids.shape[1]))


def gradient_shares(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    objective: ObjectiveTerms,
    batch: Batch,
    runtime: Runtime,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, float]:
    """Norm of each weighted term's own gradient over the sum of all terms' norms, by the term's key; they sum to 1.

    Leaves no gradient behind.
    """
    with runtime.autocast():
        target = objective.read_teachers(teachers, batch)
        output = run_model(student, batch, objective.student_needs)
        losses = objective.compute(output, target, batch)
    trained = list(parameters.values())
    weights = objective.weights()
    norms: dict[str, float] = {}
    for key, loss in losses.items():
        gradients = torch.autograd.grad(weights[key] * loss.mean(), trained, retain_graph=True, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        norms[key] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    total = sum(norms.values())
    return {key: norm / total for key, norm in norms.items()} if total > 0 else {}


@contextmanager
def perturbed_embeddings(
    student: nn.Module, forward: Callable[[], tuple[Tensor, Any]], batch: Batch, *, length: float
) -> Iterator[None]:
    """Inside the block the word embeddings stand a step along the loss's gradient away (LRC-BERT's perturbation).

    Args:
        student: the model that is trained.
        forward: gives the loss of the microbatch, first of what it returns.
        batch: the microbatch.
        length: of the step, per row: a norm over all rows would let them, and their padding, move each other.
    """
    embeddings = student.get_input_embeddings()  # type: ignore[operator]
    noted: list[Tensor] = []
    hook = embeddings.register_forward_hook(lambda _m, _i, output: noted.append(output))
    try:
        # Both passes draw the same dropout (stages/models/dropout.py), or the step would lead away from another loss.
        loss, _ = forward()
        (gradient,) = torch.autograd.grad(loss, noted)
    finally:
        hook.remove()
    gradient = gradient * batch.attention_mask.unsqueeze(-1)
    norm = gradient.flatten(1).norm(dim=1)[:, None, None]
    step = (length * gradient / norm.clamp(min=1e-12)).detach()
    hook = embeddings.register_forward_hook(lambda _m, _i, output: output + step.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()
