"""Text that first values are fitted on, and the state of models that read it."""

from __future__ import annotations

import numpy as np
from torch import nn

from stages.data.batching.tokens import Tokens
from stages.models.read import drawn_text, evaluated


def some_text(rows: int = 160) -> Tokens:
    draw = np.random.default_rng(1)
    lengths = draw.integers(4, 14, rows).astype(np.int32)
    ids = draw.integers(5, 10, int(lengths.sum())).astype(np.int32)
    return Tokens(ids, lengths, None, None, 0, "text", np.cumsum(lengths) - lengths)


def test_text_is_bounded_and_drawn_by_the_seed() -> None:
    text = some_text()
    rows = drawn_text(text, 5, max_tokens=200)
    assert 150 < text.lengths[rows].sum() <= 200
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, drawn_text(text, 5, max_tokens=200))
    assert not np.array_equal(rows, drawn_text(text, 6, max_tokens=200))
    assert len(drawn_text(text, 5, max_tokens=1)) == 1  # longer than the limit
    assert len(drawn_text(text, 5, max_sequences=7)) == 7
    assert len(drawn_text(text, 5)) == len(text)


def test_models_are_read_without_dropout_and_restored() -> None:
    one, other = nn.Linear(2, 2).train(), nn.Linear(2, 2).eval()
    with evaluated(one, other):
        assert not one.training
        assert not other.training
    assert one.training
    assert not other.training
