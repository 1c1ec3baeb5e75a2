"""Importance of each part of a teacher: first-order Taylor scores on calibration text.

A part's score is the absolute value of the sum of weight x gradient over the part's weights, per batch, summed over
batches: the first-order change of the loss when the part is removed (Molchanov et al. 2017). By part:

- neuron j: |w1_j . dL/dw1_j + w2_j . dL/dw2_j|, its bias with w1_j (MoEBERT, Zuo et al. 2022);
- head a: |<O_a, dL/dO_a>| with O_a the head's context (Michel et al. 2019). One linear map reads the context, so that
  this is the sum of w . dL/dw over the head's columns of the output projection, and no activations are kept;
- channel of queries and keys, of values and context: over the weights that write and read it;
- hidden channel: over each tensor that contains it, including embeddings; absolute values summed over the tensors.

Only the abstract of the published method (Extract-Then-Distill, arXiv 2104.11928) was available: it says that an
importance metric chooses the parts. The metric here is the usual one of that literature.

Shapes: B batch, S sequence, H hidden, L layers, A heads, D head channels, F neurons, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedModel

from schemas.core.errors import DataError, NonFiniteLossError
from stages.data.batching.tokens import Batch
from stages.models.extraction.anatomy import Anatomy, Role, anatomy_of, head_width

MASKED_FRACTION = 0.15


@dataclass(frozen=True)
class Importance:
    """Non-negative float64 scores, comparable only within a field and a layer.

    heads           (L, A)
    query_channels  (L, A, D)  channels of queries and keys
    value_channels  (L, A, D)  channels of values and of the output projection's input
    neurons         (L, F)
    hidden          (H,)       shared by all layers
    """

    heads: Tensor
    query_channels: Tensor
    value_channels: Tensor
    neurons: Tensor
    hidden: Tensor


def measure_importance(
    model: PreTrainedModel, batches: Iterable[Batch], *, mask_token_id: int, seed: int
) -> Importance:
    """Score the teacher's parts in one pass over `batches`; the model is left unchanged.

    The loss is the masked-language-model cross entropy if the model has that head. Sentence encoders have none; their
    loss is a proxy of this project: the mean squared distance between the final hidden states of the masked and the
    original input, the latter without gradient, over real tokens. A hidden-state distillation loss against another
    teacher is no substitute: its gradients rank parts worse (GRAIN's "gradient separation").

    Args:
        model: the teacher, with or without a masked-language-model head; only the encoder's parts are scored.
        batches: calibration text on any device, a few hundred batches or fewer.
        mask_token_id: replaces masked tokens.
        seed: seed of the masked tokens.

    Raises:
        ConfigError: the model's family is not supported, or the encoder has an unknown weight.
        DataError: no batch has a token that can be masked.
        NonFiniteLossError: the loss of a batch is NaN or infinite.
    """
    anatomy = anatomy_of(model.config)
    names, parameters = zip(*model.base_model.named_parameters(), strict=True)
    generator = torch.Generator().manual_seed(seed)
    total: Importance | None = None
    with _differentiable(model):
        for batch in batches:
            loss = _calibration_loss(model, batch.to(model.device), mask_token_id, generator)
            if loss is not None:
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                scores = _scores(anatomy, model, dict(zip(names, gradients, strict=True)))
                total = scores if total is None else _sum(total, scores)
    if total is None:
        raise DataError(
            "student.start.calibration_rows: none of the rows for measuring importance has words; raise it, give the "
            "first stage text, or set student.start.units to random"
        )
    return total


def mask_tokens(batch: Batch, *, mask_token_id: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replace 15 % of each sequence's tokens, at least one, with the mask token.

    The first and last real tokens, added by the tokenizers of these families, stay.

    Returns:
        input_ids_BS, and chosen_BS: True for replaced tokens.
    """
    lengths_B1 = batch.attention_mask.sum(1, keepdim=True)
    position_S = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    can_be_masked_BS = (position_S > 0) & (position_S < lengths_B1 - 1)
    # Drawn on the CPU, so that every device masks the same tokens.
    draws_BS = torch.rand(batch.input_ids.shape, generator=generator).to(batch.input_ids.device)
    ranks_BS = draws_BS.masked_fill(~can_be_masked_BS, 2.0).argsort(dim=1).argsort(dim=1)
    num_candidates_B1 = can_be_masked_BS.sum(1, keepdim=True)
    num_masked_B1 = (num_candidates_B1 * MASKED_FRACTION).round().clamp(min=1)
    chosen_BS = can_be_masked_BS & (ranks_BS < num_masked_B1)
    return batch.input_ids.masked_fill(chosen_BS, mask_token_id), chosen_BS


def _calibration_loss(
    model: PreTrainedModel, batch: Batch, mask_token_id: int, generator: torch.Generator
) -> Tensor | None:
    """Loss whose gradients score the parts; None if no token of the batch can be masked."""
    masked_BS, chosen_BS = mask_tokens(batch, mask_token_id=mask_token_id, generator=generator)
    if not bool(chosen_BS.any()):
        return None
    whole = batch.model_inputs()
    masked = {**whole, "input_ids": masked_BS}
    if _predicts_tokens(model):
        logits_BSV = model(**masked).logits
        loss = functional.cross_entropy(logits_BSV[chosen_BS], batch.input_ids[chosen_BS])
    else:
        encoder = model.base_model
        with torch.no_grad():
            target_BSH = encoder(**whole).last_hidden_state
        is_real_BS = batch.attention_mask.bool()
        states_BSH = encoder(**masked).last_hidden_state
        loss = functional.mse_loss(states_BSH[is_real_BS], target_BSH[is_real_BS])
    if not bool(torch.isfinite(loss)):
        raise NonFiniteLossError(
            f"the teacher's loss on calibration text is {loss.item()}; check that teacher.model computes finite hidden "
            "states in float32"
        )
    return loss


def _predicts_tokens(model: PreTrainedModel) -> bool:
    with_head: Any = MODEL_FOR_MASKED_LM_MAPPING.get(type(model.config), None)
    return with_head is not None and isinstance(model, with_head)


def _scores(anatomy: Anatomy, model: PreTrainedModel, gradients: Mapping[str, Tensor | None]) -> Importance:
    """Scores of one batch."""
    signed, hidden_H = _sums(anatomy, model, gradients)
    config = model.config
    num_layers, num_heads = config.num_hidden_layers, config.num_attention_heads

    def of_channels(role: Role) -> Tensor:
        rows = torch.stack([signed[layer, role] for layer in range(num_layers)])
        return rows.view(num_layers, num_heads, head_width(config))

    context_LAD = of_channels(Role.CONTEXT)
    return Importance(
        heads=context_LAD.sum(-1).abs(),
        query_channels=of_channels(Role.QUERY).abs(),
        value_channels=(of_channels(Role.VALUE) + context_LAD).abs(),
        neurons=torch.stack([signed[layer, Role.NEURON] for layer in range(num_layers)]).abs(),
        hidden=hidden_H,
    )


def _sums(
    anatomy: Anatomy, model: PreTrainedModel, gradients: Mapping[str, Tensor | None]
) -> tuple[dict[tuple[int, Role], Tensor], Tensor]:
    """Sums of weight x gradient: signed by block and role, absolute for hidden channels.

    Within a block, sums keep their sign until all weights of a part are added, as in the formulas. A hidden channel has
    weights in every block, whose effects could cancel by chance; so absolute values are taken per tensor.
    """
    signed: dict[tuple[int, Role], Tensor] = {}
    hidden_H = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    for name, parameter in model.base_model.named_parameters():
        if (gradient := gradients[name]) is None:  # not part of the loss, such as the pooler
            continue
        product = parameter.detach() * gradient
        location = anatomy.locate(name, product.ndim)
        for axis, roles in enumerate(location.dimensions):
            rows = product.movedim(axis, 0).reshape(product.shape[axis], -1)
            sums = rows.sum(1, dtype=torch.float64).cpu()
            for role, part in zip(roles, sums.chunk(len(roles)), strict=True):
                if role is Role.HIDDEN:
                    hidden_H += part.abs()
                elif location.layer is not None and role is not Role.WHOLE:
                    key = (location.layer, role)
                    signed[key] = signed[key] + part if key in signed else part
    return signed, hidden_H


def _sum(first: Importance, second: Importance) -> Importance:
    return Importance(
        **{field.name: getattr(first, field.name) + getattr(second, field.name) for field in fields(Importance)}
    )


@contextmanager
def _differentiable(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, all weights require gradients and dropout is off; restored afterwards."""
    was_training = {module: module.training for module in model.modules()}
    needed_gradient = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in was_training.items():
            module.training = mode
        for parameter, needed in needed_gradient.items():
            parameter.requires_grad_(needed)
