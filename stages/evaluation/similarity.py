"""Nearness of two models' hidden states, layer by layer, by linear CKA.

Shapes: N tokens, H and K widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.data.batching.tokens import Tokens
from stages.models.read import evaluated, reading_batches


def linear_cka(first_NH: Tensor, second_NK: Tensor) -> float:
    """Return the linear centred kernel alignment of two models' states of the same tokens, 0 to 1.

    ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) in Frobenius norms, for states without their means (Kornblith et al. 2019, arXiv
    1905.00414, section 3). 1 for states that are equal up to a rotation and a scale; widths may differ.

    Args:
        first_NH: states of one model.
        second_NK: states of the other.
    """
    first, second = (states.double() - states.double().mean(0) for states in (first_NH, second_NK))
    norms = torch.linalg.matrix_norm(first.T @ first) * torch.linalg.matrix_norm(second.T @ second)
    return float(torch.linalg.matrix_norm(second.T @ first) ** 2 / norms) if norms > 0 else 0.0


def layer_similarity(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return the CKA of every pair of layers, (student layers + 1, teacher layers + 1).

    Args:
        student: the states of each layer, as of `layer_states`; 0 is the embedding output.
        teacher: those of the teacher for the same tokens.
    """
    return np.array([[linear_cka(layer, other) for other in teacher] for layer in student])


@torch.no_grad()
def layer_states(model: nn.Module, tokens: Tokens, rows: NDArray[np.int64]) -> list[Tensor]:
    """Return (N, width) the states of all real tokens after each layer, in the same order for every model.

    Args:
        model: a model with or without a head.
        tokens: the sequences.
        rows: those that are read.
    """
    parts: list[list[Tensor]] = []
    encoder = getattr(model, "base_model", model)
    with evaluated(model):
        device = next(model.parameters()).device
        for _, batch in reading_batches(tokens, rows):
            batch = batch.to(device)
            mask = batch.attention_mask.bool()
            hidden = encoder(**batch.model_inputs(), output_hidden_states=True).hidden_states
            parts.append([states[mask].float().cpu() for states in hidden])
    return [torch.cat(layers) for layers in zip(*parts, strict=True)]
