"""Draws of rows by class: every class keeps its share, and rare classes are not missed.

A class with one row in thirty is missing from one in fifteen draws of 80 rows; a linear model of two classes can then
not be fitted, and a score about the missing class means nothing. So rows are drawn from each class separately
(stratified sampling, Cochran 1977, chapter 5). A row with several labels or tags counts for its rarest one.
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
    """Return the rows to take of `number` rows, ascending: all, or `max_rows` drawn by the seed.

    The first rows would not do: files are often sorted by label.

    Args:
        number: number of rows.
        max_rows: rows that are drawn at most; None for all.
        seed: seed of the draw.
        by: (number,) the class of each row; each class then has its share of the draw, and at least one row if there
            is room. None draws from all rows alike.
        keep_one: leave at least one row of each class out of the draw, so that a class of a single row is never drawn.
    """
    if max_rows is None or (max_rows >= number and not keep_one):
        return np.arange(number)
    order = np.random.default_rng(seed).permutation(number)
    if by is None:
        return np.sort(order[:max_rows])
    _, classes, sizes = np.unique(by, return_inverse=True, return_counts=True)
    shares = _shares(sizes, sizes - 1 if keep_one else sizes, max_rows)
    # Rank of each row in the drawn order of its class.
    grouped = order[np.argsort(classes[order], kind="stable")]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(number) - starts
    return np.sort(grouped[rank < np.repeat(shares, sizes)])


def drawn_from(rows: Dataset, problem: TaskKind, max_rows: int | None, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the rows of a split to take: all, or `max_rows` drawn by class; other arguments as for `drawn_rows`."""
    if max_rows is None or max_rows >= len(rows):
        return np.arange(len(rows))
    return drawn_rows(len(rows), max_rows, seed=seed, by=kind_of(problem).classes(rows))


def _shares(sizes: NDArray[np.int64], most: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Return the rows drawn of each class: its share by largest remainders, at least one and at most `most`."""
    wanted = min(wanted, int(most.sum()))
    exact = sizes * (wanted / sizes.sum())
    shares = np.minimum(np.floor(exact).astype(np.int64), most)
    # Classes without a row come first, larger before smaller; then the class furthest below its share.
    while (left := wanted - int(shares.sum())) > 0:
        lacking = np.where(shares == 0, 1 + exact, exact - shares)
        open_ = np.flatnonzero(shares < most)
        first = open_[np.lexsort((open_, -lacking[open_]))][:left]
        shares[first] += 1
    return _none_without(shares, np.minimum(most, 1))


def _none_without(shares: NDArray[np.int64], least: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move rows from the largest shares to classes with fewer than `least`, while a share has more than one row."""
    for missing in np.flatnonzero(shares < least):
        richest = int(shares.argmax())
        if shares[richest] < 2:
            break
        shares[richest] -= 1
        shares[missing] += 1
    return shares
