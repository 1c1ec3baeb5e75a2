"""One pass of a model over some rows, keeping features and answers. In fp32, whatever a stage was trained in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from stages.data.batching.batches import evaluation_batches
from stages.data.batching.tokens import Batch, Tokens
from stages.device.runtime import Runtime

_MICROBATCH_TOKENS = 8192

Picked = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Returns which tokens of some sequences (all real tokens, sequence after sequence) are kept of the last states."""


@dataclass(frozen=True)
class Read:
    """Features and answers of a model for some rows."""

    features: list[NDArray[np.float32]]
    """Per row: (width,) last hidden states averaged over real tokens, or (tokens, width) those of the picked tokens."""
    logits: list[NDArray[np.float32]] | None
    """Per row: (outputs,) or (tokens, outputs), the head's answer; None without a head."""


def head_answer(output: ModelOutput) -> Tensor | None:
    """Return a head's answer, start and end of a span as two classes of each token; None without a head."""
    if "start_logits" in output:
        return torch.stack([output["start_logits"], output["end_logits"]], dim=-1)
    return output.get("logits")


def reading_batches(
    tokens: Tokens, rows: NDArray[np.int64], *, together: bool = False
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield positions within `rows` and their batch, in order of length.

    Args:
        tokens: the sequences.
        rows: which of them.
        together: keep the choices of a row in one batch.
    """
    choice_of = tokens.choice_of[rows] if together and tokens.choice_of is not None else None
    for positions in evaluation_batches(tokens.lengths[rows], _MICROBATCH_TOKENS, choice_of):
        yield positions, tokens.batch(rows[positions])


def drawn_text(tokens: Tokens, seed: int, *, max_sequences: int = 1024, max_tokens: int = 32_768) -> NDArray[np.int64]:
    """Return sequences drawn by the seed, ascending: as many as fit within both limits, and at least one.

    A student's first values are fitted on them; twice as much text did not make a better head in a trial.
    """
    order = np.random.default_rng(seed).permutation(len(tokens))[:max_sequences]
    within = int((np.cumsum(tokens.lengths[order], dtype=np.int64) <= max_tokens).sum())
    return np.sort(order[: max(within, 1)])


@contextmanager
def evaluated(*models: nn.Module) -> Iterator[None]:
    """Run models without dropout on the process's device; modes and devices are restored."""
    before = [(model, model.training, next(model.parameters()).device) for model in models]
    for model in models:
        model.eval().to(Runtime("fp32").device)
    try:
        yield
    finally:
        for model, was_training, device in before:
            model.train(was_training).to(device)


@torch.no_grad()
def read_rows(model: nn.Module, tokens: Tokens, rows: NDArray[np.int64], picked: Picked | None = None) -> Read:
    """Return features, and answers where there is a head, for `rows` in their order.

    Args:
        model: with or without a head.
        tokens: the sequences.
        rows: which of them.
        picked: the tokens whose states are features; None for the mean over tokens.
    """
    encoder = getattr(model.eval(), "base_model", model)
    device = next(model.parameters()).device
    states: list[Tensor] = []
    hook = encoder.register_forward_hook(lambda _m, _i, output: states.append(output.last_hidden_state))
    features: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
    logits: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
    has_head = False
    try:
        for positions, batch in reading_batches(tokens, rows):
            batch = batch.to(device)
            answer = head_answer(model(**batch.model_inputs(), output_hidden_states=False))
            mask = batch.attention_mask.bool()
            kept = _features(states.pop(), mask, rows[positions], picked)
            for position, row_features in zip(positions, kept, strict=True):
                features[position] = row_features
            if answer is not None:
                has_head = True
                for index, position in enumerate(positions):
                    row_answer = answer[index][mask[index]] if answer.ndim == 3 else answer[index]
                    logits[position] = row_answer.float().cpu().numpy()
    finally:
        hook.remove()
    return Read(features, logits if has_head else None)


def _features(
    states: Tensor, mask: Tensor, rows: NDArray[np.int64], picked: Picked | None
) -> list[NDArray[np.float32]]:
    if picked is None:
        weights = mask.unsqueeze(-1)
        pooled = (states.float() * weights).sum(1) / weights.sum(1)
        return list(pooled.cpu().numpy())
    return [
        sequence[real][torch.from_numpy(picked(rows[[index]])).to(sequence.device)].float().cpu().numpy()
        for index, (sequence, real) in enumerate(zip(states, mask, strict=True))
    ]
