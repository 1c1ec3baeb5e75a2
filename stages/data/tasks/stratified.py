"""Draws rows by class: each keeps its share, and none is lost that a small draw could miss.

A class with one row in thirty is missing from one in fifteen draws of 80 rows; a linear model cannot be fitted on what
is left of two classes then, and a score about the missing class means nothing. So rows are drawn from each class apart
(stratified sampling, Cochran 1977, chapter 5). Rows with several labels or tags count for the rarest that they have.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.kinds import TaskKind
from stages.kinds.registry import kind_of


def drawn_rows(
    number: int,
    max_rows: int | None = None,
    *,
    seed: int = 0,
    by: NDArray[np.int64] | None = None,
    keep_one: bool = False,
) -> NDArray[np.int64]:
    """Which of `number` rows to take, in their order: all, or `max_rows` drawn the same way every time.

    The first rows would not do: files are often sorted by label.

    Args:
        number: how many rows there are.
        max_rows: how many are drawn at most; None for all.
        seed: of the draw.
        by: (number,) the class of each row; each class then has its share of the draw, and at least one row where there
            is room for that. None draws from all rows alike.
        keep_one: whether at least one row of each class is left out of the draw, so that a class of a single row is
            never drawn.
    """
    if max_rows is None or (max_rows >= number and not keep_one):
        return np.arange(number)
    order = np.random.default_rng(seed).permutation(number)
    if by is None:
        return np.sort(order[:max_rows])
    _, classes, sizes = np.unique(by, return_inverse=True, return_counts=True)
    shares = _shares(sizes, sizes - 1 if keep_one else sizes, max_rows)
    # Each row's place among the drawn order of its own class.
    grouped = order[np.argsort(classes[order], kind="stable")]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.arange(number) - starts
    return np.sort(grouped[place < np.repeat(shares, sizes)])


def drawn_from(rows: Dataset, problem: TaskKind, max_rows: int | None, *, seed: int = 0) -> NDArray[np.int64]:
    """Which rows of a split to take: all, or `max_rows` drawn by class; other arguments as `drawn_rows`'s."""
    if max_rows is None or max_rows >= len(rows):
        return np.arange(len(rows))
    return drawn_rows(len(rows), max_rows, seed=seed, by=kind_of(problem).classes(rows))


def _shares(sizes: NDArray[np.int64], most: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """How many of `wanted` rows each class gives: its share by largest remainders, but at least one, at most `most`."""
    wanted = min(wanted, int(most.sum()))
    exact = sizes * (wanted / sizes.sum())
    shares = np.minimum(np.floor(exact).astype(np.int64), most)
    # A class without any comes first, the larger before the smaller; then what is furthest below its share.
    while (left := wanted - int(shares.sum())) > 0:
        lacking = np.where(shares == 0, 1 + exact, exact - shares)
        open_ = np.flatnonzero(shares < most)
        first = open_[np.lexsort((open_, -lacking[open_]))][:left]
        shares[first] += 1
    return _none_without(shares, np.minimum(most, 1))


def _none_without(shares: NDArray[np.int64], least: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows moved from the classes with most of them to those with fewer than `least`, as far as there are any."""
    for missing in np.flatnonzero(shares < least):
        richest = int(shares.argmax())
        if shares[richest] < 2:
            break
        shares[richest] -= 1
        shares[missing] += 1
    return shares
