"""What a score would have been on other rows like these: the bootstrap, for every metric in one way.

Rows are drawn with replacement, as many as there are, so a draw is how often each row came. Most scores come from sums
over rows (right answers, confusion counts, products), and the sums of all draws are one matrix product; rank
correlations take the counts as weights. So a thousand draws of 2,000 rows take a tenth of a second at most, where a
library called on each would take seconds. `stages.scores.metrics` asks the library for the score itself; the tests
hold the two together.

Intervals are percentiles of the draws. BCa, which corrects for skew, needs the score without each row in turn, to which
rank correlations have no short way, and has no value where every draw is alike (all answers right).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# So few that they stay in the processor's cache: four times as fast for rank correlations as millions at once.
_COUNTS_AT_ONCE = 65_536

Finish = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resampler:
    """The score on any draw of the rows."""

    units: int
    """What is drawn: rows, or pairs of them."""
    values: Callable[[np.ndarray], np.ndarray]
    """From (draws, units), how often each was drawn, to (draws,) scores."""

    def draws(self, resamples: int, seed: int) -> np.ndarray:
        """(resamples,): the scores of so many draws; the same draws for as many units and the same seed."""
        return np.concatenate([self.values(drawn) for drawn in _drawn(self.units, resamples, seed)])


def _drawn(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    at_once = max(1, _COUNTS_AT_ONCE // units)
    for start in range(0, resamples, at_once):
        number = min(at_once, resamples - start)
        rows = generator.integers(units, size=(number, units))
        rows += units * np.arange(number)[:, None]
        counts = np.bincount(rows.ravel(), minlength=number * units)
        yield counts.reshape(number, units).astype(np.float64)


def of_sums(per_row: np.ndarray, finish: Finish) -> Resampler:
    """A score that follows from sums over rows.

    Args:
        per_row: (rows, sums) what each row adds to each sum.
        finish: from (draws, sums) to (draws,) scores.
    """
    return Resampler(len(per_row), lambda drawn: finish(drawn @ per_row))


def of_mean(per_row: np.ndarray) -> Resampler:
    """The mean of (rows,) values."""
    return Resampler(len(per_row), lambda drawn: drawn @ per_row / len(per_row))


def of_both(one: Resampler, other: Resampler) -> Resampler:
    """The mean of two scores of the same rows."""
    return Resampler(one.units, lambda drawn: (one.values(drawn) + other.values(drawn)) / 2)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient; 0 where there is nothing below."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def f1_of(sums: np.ndarray) -> np.ndarray:
    """F1 from sums of (found and right, found + right)."""
    return ratio(2 * sums[..., 0], sums[..., 1])


def of_f1_macro(right: np.ndarray, given: np.ndarray, *, present_only: bool) -> Resampler:
    """Mean of the labels' F1.

    Args:
        right: (rows, labels) 1 where the row has the label.
        given: the same of the answers.
        present_only: leave out labels that neither side has in a draw, as scikit-learn does for classes.
    """
    labels = right.shape[1]

    def finish(sums: np.ndarray) -> np.ndarray:
        both, either = sums[:, :labels], sums[:, labels:]
        counted = (either > 0).sum(1) if present_only else np.full(len(sums), labels)
        return ratio(ratio(2 * both, either).sum(1), counted.astype(np.float64))

    return of_sums(np.hstack([right * given, right + given]), finish)


def of_matthews(right: np.ndarray, given: np.ndarray) -> Resampler:
    """Matthews correlation of any number of classes (Gorodkin 2004), from (rows, classes) of zeros and ones."""
    rows, classes = right.shape

    def finish(sums: np.ndarray) -> np.ndarray:
        agreed, rights, givens = sums[:, 0], sums[:, 1 : classes + 1], sums[:, classes + 1 :]
        above = agreed * rows - (rights * givens).sum(1)
        spread = (rows**2 - (rights**2).sum(1)) * (rows**2 - (givens**2).sum(1))
        return ratio(above, np.sqrt(spread))

    return of_sums(np.hstack([(right * given).sum(1, keepdims=True), right, given]), finish)


def of_pearson(right: np.ndarray, given: np.ndarray) -> Resampler:
    """Pearson correlation of (rows,) values; 0 where a side is constant in a draw."""
    # Centred first, or the differences of large sums would lose the digits that matter.
    x, y = right - right.mean(), given - given.mean()
    rows = len(x)

    def finish(sums: np.ndarray) -> np.ndarray:
        x_mean, y_mean, xx, yy, xy = (sums / rows).T
        return _correlation(xy - x_mean * y_mean, xx - x_mean**2, yy - y_mean**2, xx, yy)

    return of_sums(np.stack([x, y, x * x, y * y, x * y], axis=1), finish)


def of_spearman(right: np.ndarray, given: np.ndarray) -> Resampler:
    """Rank correlation of (rows,) values, ranks taken anew in each draw; 0 where a side is constant in it."""
    rank_right, rank_given = _ranker(right), _ranker(given)
    rows = len(right)

    def values(drawn: np.ndarray) -> np.ndarray:
        # The mean rank is the same in every draw: each has as many rows.
        x, y = (ranks(drawn) - (rows + 1) / 2 for ranks in (rank_right, rank_given))
        weighted = drawn * x
        xx, yy = (weighted * x).sum(1) / rows, (drawn * y * y).sum(1) / rows
        return _correlation((weighted * y).sum(1) / rows, xx, yy, xx, yy)

    return Resampler(rows, values)


def _ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From how often each value was drawn to the rank of each, ties at their mean rank."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))

    def ranks(drawn: np.ndarray) -> np.ndarray:
        alike = np.add.reduceat(drawn[:, order], starts, axis=1)
        return (np.cumsum(alike, axis=1) - (alike - 1) / 2)[:, group]

    return ranks


def _correlation(
    covariance: np.ndarray, x_variance: np.ndarray, y_variance: np.ndarray, x_scale: np.ndarray, y_scale: np.ndarray
) -> np.ndarray:
    """The correlation; 0 where a variance is nothing but the rounding of its scale."""
    varied = (x_variance > 1e-12 * x_scale) & (y_variance > 1e-12 * y_scale)
    spread = np.sqrt(np.where(varied, x_variance * y_variance, 0.0))
    return np.clip(ratio(covariance, spread), -1.0, 1.0)
