"""Gradient shares of terms, and perturbed embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.data.batching.choice_groups import Rows
from stages.data.batching.tokens import Batch
from stages.device.runtime import Runtime
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import run_model

_SHARE_TOKENS = 512
"""Most tokens to measure shares on; each term costs a backward pass."""
_FEWEST_ROWS = 4


def first_rows(batch: Batch) -> Batch:
    """Return the rows of a microbatch that shares are measured on."""
    return batch.first(max(1, _SHARE_TOKENS // batch.input_ids.shape[1]))


def spread_rows(rows: Rows, lengths: NDArray[np.int32]) -> Rows:
    """Return rows of a step, evenly spread over their lengths: about `_SHARE_TOKENS` tokens, at most half the rows.

    They depend neither on padding nor on how the step is cut into forward passes. A step of few rows has `_FEWEST_ROWS`
    measured, as some terms compare rows.
    """
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    number = _SHARE_TOKENS * len(rows) // int(lengths[rows].sum())
    number = min(max(min(number, len(rows) // 2), _FEWEST_ROWS), len(rows))
    return rows[(2 * np.arange(number) + 1) * len(rows) // (2 * number)]


def gradient_norms(losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    """Return the norm of each loss's gradient in all parameters together, by name; leaves no gradient in them.

    Args:
        losses: scalars of one forward pass, by name.
        parameters: the parameters; frozen ones are left out.
    """
    norms: dict[str, float] = {}
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for name, loss in losses.items():
        if not loss.requires_grad:  # a latent term without projection, while the body is frozen
            norms[name] = 0.0
            continue
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        norms[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return norms


def gradient_shares(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    objective: ObjectiveTerms,
    batch: Batch,
    runtime: Runtime,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, float]:
    """Return each weighted term's gradient norm as a share of the sum of all norms, by the term's key.

    Leaves no gradient in the parameters.
    """
    with runtime.autocast():
        target = objective.read_teachers(teachers, batch)
        output = run_model(student, batch, objective.student_needs)
        losses = objective.compute(output, target, batch)
    weights = objective.weights()
    norms = gradient_norms({key: weights[key] * loss.mean() for key, loss in losses.items()}, list(parameters.values()))
    total = sum(norms.values())
    return {key: norm / total for key, norm in norms.items()} if total > 0 else {}


@contextmanager
def perturbed_embeddings(
    student: nn.Module, forward: Callable[[], tuple[Tensor, Any]], batch: Batch, *, length: float
) -> Iterator[None]:
    """Inside the block, word embeddings are moved along the loss's gradient (LRC-BERT's perturbation).

    Args:
        student: the model that is trained.
        forward: returns the loss of the microbatch as its first result.
        batch: the microbatch.
        length: norm of the step in each row; a norm over all rows would make rows and padding affect each other.
    """
    embeddings = student.get_input_embeddings()  # type: ignore[operator]
    outputs: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        # The output of a frozen table has no gradient by itself; some families add to the output in place.
        outputs.append(output.requires_grad_())
        return output.clone()

    hook = embeddings.register_forward_hook(note)
    try:
        # Both passes draw the same dropout (stages/models/dropout.py), so that the step follows the same loss.
        loss, _ = forward()
        (gradient,) = torch.autograd.grad(loss, outputs)
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
