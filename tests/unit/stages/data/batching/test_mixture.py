"""Sources mixed by weight: complete, reproducible, in the right shares."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from schemas.core.training import BatchSize, Duration
from stages.data.batching.batches import Batches
from stages.data.batching.mixture import Mixture

SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=4)
UNITS = st.sampled_from(["7 sequences", "1 sequence", "90 tokens"])


def plan(lengths: NDArray[np.int32], size: str, mixture: Mixture | None = None) -> Batches:
    return Batches(lengths, TypeAdapter(BatchSize).validate_python(size), 64, 3, mixture)


def rows_of(batches: Batches, steps: range) -> NDArray[np.int64]:
    return np.concatenate([np.concatenate(batches.step(step)) for step in steps])


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, weights=st.lists(st.floats(0.2, 5), min_size=4, max_size=4), size=UNITS, seed=st.integers(0, 99))
def test_rows_of_a_source_are_seen_equally_often_up_to_one(
    sizes: list[int], weights: list[float], size: str, seed: int
) -> None:
    lengths = np.random.default_rng(seed).integers(3, 30, sum(sizes)).astype(np.int32)
    mixture = Mixture(tuple(sizes), tuple(weights[: len(sizes)]))
    batches = plan(lengths, size, mixture)
    seen = np.zeros(len(lengths), int)
    step = 0
    for epoch in range(3):
        end = step + batches.steps_in_epoch(epoch)
        rows = rows_of(batches, range(step, end))
        assert len(rows) == batches.rows_in_epoch
        assert lengths[rows].sum() == batches.tokens_in_epoch(epoch)
        seen += np.bincount(rows, minlength=len(lengths))
        for part in np.split(seen, np.cumsum(sizes)[:-1]):
            assert part.max() - part.min() <= 1
        assert seen.min() >= epoch + 1, "what is learned slowest is seen once an epoch"
        step = end


def test_shares_count_tokens_and_a_small_source_repeats() -> None:
    # 900 short rows and 60 long ones, as many tokens each: equal weights make equal shares of tokens, not of rows.
    lengths = np.concatenate([np.full(900, 10), np.full(60, 30)]).astype(np.int32)
    batches = plan(lengths, "30 sequences", Mixture((900, 60), (1.0, 1.0)))
    rows = rows_of(batches, range(batches.steps_in_epoch(0)))
    assert Counter((rows >= 900).tolist()) == {False: 900, True: 300}
    assert np.bincount(rows).tolist() == [1] * 900 + [5] * 60
    batches = plan(lengths, "30 sequences", Mixture((900, 60), (1.0, 3.0)))
    rows = rows_of(batches, range(batches.steps_in_epoch(0)))
    tokens = [lengths[rows[rows < 900]].sum(), lengths[rows[rows >= 900]].sum()]
    assert tokens == [9000, 27000]


def test_any_step_of_a_mixture_can_be_computed_alone() -> None:
    lengths = np.arange(5, 65, dtype=np.int32)
    mixture = Mixture((50, 10), (1.0, 2.5))
    in_order = plan(lengths, "8 sequences", mixture)
    expected = [np.concatenate(in_order.step(step)) for step in range(60)]
    for step in (59, 0, 31):
        alone = plan(lengths, "8 sequences", mixture).step(step)
        assert np.array_equal(np.concatenate(alone), expected[step])


@pytest.mark.parametrize("size", ["8 sequences", "200 tokens"])
def test_a_duration_in_tokens_is_the_smallest_number_of_steps_that_reaches_it(size: str) -> None:
    lengths = np.arange(5, 65, dtype=np.int32)
    batches = plan(lengths, size, Mixture((50, 10), (1.0, 2.5)))
    for amount in (1, 3_000, batches.tokens_in_epoch(0), 20_000):
        wanted = TypeAdapter(Duration).validate_python(f"{amount} tokens")
        steps = batches.num_steps(wanted)
        reached = [batches.tokens_in_step(step) for step in range(steps)]
        assert sum(reached) >= amount > sum(reached[:-1])


def test_sources_that_do_not_fit_the_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 9"):
        plan(np.full(9, 5, np.int32), "2 sequences", Mixture((5, 5), (1.0, 1.0)))
