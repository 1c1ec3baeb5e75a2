"""Batches of real texts for latency: in their own length, or cut and repeated to a given one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.latency.measure import Load
from pipeline.latency.worker import Batch
from stages.data.batching.tokens import Tokens

_CALLS = 16
"""Calls of a round."""


def load_of(tokens: Tokens, rows: NDArray[np.int64], *, batch: int, length: int | None, calls: int = _CALLS) -> Load:
    """Return the batches of a round.

    Args:
        tokens: the sequences.
        rows: which of them; repeated if they are too few.
        batch: texts in a call.
        length: tokens of each text, its first ones, from the start again if it has fewer; None for its own length.
        calls: calls of a round.
    """
    chosen = np.resize(rows, batch * calls).reshape(calls, batch)
    return Load(batch, length, [_batch(tokens, each, length) for each in chosen])


def _batch(tokens: Tokens, rows: NDArray[np.int64], length: int | None) -> Batch:
    if length is None:
        inputs = tokens.batch(rows).model_inputs()
        return {name: value.tolist() for name, value in inputs.items()}
    spans = [slice(tokens.starts[row], tokens.starts[row] + tokens.lengths[row]) for row in rows]
    ids = [np.resize(tokens.ids[span], length).tolist() for span in spans]
    filled: Batch = {"input_ids": ids, "attention_mask": np.ones((len(rows), length), int).tolist()}
    if tokens.types is not None:
        filled["token_type_ids"] = [np.resize(tokens.types[span], length).tolist() for span in spans]
    return filled
