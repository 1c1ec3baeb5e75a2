"""The bootstrap: scores of resampled rows, for every metric.

As many rows as there are get drawn with replacement, so that a draw is a count per row. Most scores follow from sums
over rows (right answers, confusion counts, products), and the sums of all draws are one matrix product; rank
correlations take the counts as weights. A thousand draws of 2,000 rows thus take at most a tenth of a second, where
calls of a library would take seconds. `stages.scores.metrics` takes the score itself from a library; tests hold the two
together.

Intervals are percentiles of the draws. BCa, which corrects for skew, needs the score without each row in turn, for
which rank correlations have no shortcut, and is undefined where all draws are equal (all answers right).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# Few enough for the processor's cache: rank correlations are four times as fast as with millions at once.
_COUNTS_AT_ONCE = 65_536

Finish = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resampler:
    """A score as a function of how often each row was drawn."""

    units: int
    """Number of rows, or of pairs of rows, that are drawn."""
    values: Callable[[np.ndarray], np.ndarray]
    """Maps (draws, units) counts to (draws,) scores."""

    def draws(self, resamples: int, seed: int) -> np.ndarray:
        """Return (resamples,) the scores of random draws, which depend on the number of units and the seed alone."""
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
    """Return the resampler of a score that follows from sums over rows.

    Args:
        per_row: (rows, sums) summands of each row.
        finish: maps (draws, sums) to (draws,) scores.
    """
    return Resampler(len(per_row), lambda drawn: finish(drawn @ per_row))


def of_mean(per_row: np.ndarray) -> Resampler:
    """Return the resampler of the mean of (rows,) values."""
    return Resampler(len(per_row), lambda drawn: drawn @ per_row / len(per_row))


def of_both(one: Resampler, other: Resampler) -> Resampler:
    """Return the resampler of the mean of two scores of the same rows."""
    return Resampler(one.units, lambda drawn: (one.values(drawn) + other.values(drawn)) / 2)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the quotient; 0 where the denominator is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def f1_of(sums: np.ndarray) -> np.ndarray:
    """Return F1 from sums of (predicted and right, predicted + right)."""
    return ratio(2 * sums[..., 0], sums[..., 1])


def of_f1_macro(right: np.ndarray, predicted: np.ndarray, *, present_only: bool) -> Resampler:
    """Return the resampler of the mean of the labels' F1.

    Args:
        right: (rows, labels) 1 where the row has the label.
        predicted: (rows, labels) 1 where the answer has it.
        present_only: leave out labels that neither side has in a draw, as scikit-learn does for classes.
    """
    labels = right.shape[1]

    def finish(sums: np.ndarray) -> np.ndarray:
        both, either = sums[:, :labels], sums[:, labels:]
        counted = (either > 0).sum(1) if present_only else np.full(len(sums), labels)
        return ratio(ratio(2 * both, either).sum(1), counted.astype(np.float64))

    return of_sums(np.hstack([right * predicted, right + predicted]), finish)


def of_matthews(right: np.ndarray, predicted: np.ndarray) -> Resampler:
    """Return the resampler of Matthews correlation (Gorodkin 2004), from (rows, classes) of zeros and ones."""
    rows, classes = right.shape

    def finish(sums: np.ndarray) -> np.ndarray:
        agreed, rights, givens = sums[:, 0], sums[:, 1 : classes + 1], sums[:, classes + 1 :]
        above = agreed * rows - (rights * givens).sum(1)
        spread = (rows**2 - (rights**2).sum(1)) * (rows**2 - (givens**2).sum(1))
        return ratio(above, np.sqrt(spread))

    return of_sums(np.hstack([(right * predicted).sum(1, keepdims=True), right, predicted]), finish)


def of_pearson(right: np.ndarray, predicted: np.ndarray) -> Resampler:
    """Return the resampler of Pearson correlation of (rows,) values; 0 where a side is constant in a draw."""
    # Centred first: differences of large sums would lose significant digits.
    x, y = right - right.mean(), predicted - predicted.mean()
    rows = len(x)

    def finish(sums: np.ndarray) -> np.ndarray:
        x_mean, y_mean, xx, yy, xy = (sums / rows).T
        return _correlation(xy - x_mean * y_mean, xx - x_mean**2, yy - y_mean**2, xx, yy)

    return of_sums(np.stack([x, y, x * x, y * y, x * y], axis=1), finish)


def of_spearman(right: np.ndarray, predicted: np.ndarray) -> Resampler:
    """Return the resampler of rank correlation, ranked in each draw; 0 where a side is constant in a draw."""
    rank_right, rank_predicted = _ranker(right), _ranker(predicted)
    rows = len(right)

    def values(drawn: np.ndarray) -> np.ndarray:
        # The mean rank is the same in every draw: each has as many rows.
        x, y = (ranks(drawn) - (rows + 1) / 2 for ranks in (rank_right, rank_predicted))
        weighted = drawn * x
        xx, yy = (weighted * x).sum(1) / rows, (drawn * y * y).sum(1) / rows
        return _correlation((weighted * y).sum(1) / rows, xx, yy, xx, yy)

    return Resampler(rows, values)


def _ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts of (rows,) values to their ranks; ties have their mean rank."""
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
    """Return the correlation; 0 where a variance is only the rounding error of its scale."""
    varied = (x_variance > 1e-12 * x_scale) & (y_variance > 1e-12 * y_scale)
    spread = np.sqrt(np.where(varied, x_variance * y_variance, 0.0))
    return np.clip(ratio(covariance, spread), -1.0, 1.0)
