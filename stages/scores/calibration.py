"""Calibration of a classifier: is it right as often as it says?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax


@dataclass(frozen=True)
class Calibration:
    """Answers grouped by the probability that the model gave them."""

    confidence: NDArray[np.float64]
    """(groups,) mean probability of the answers."""
    accuracy: NDArray[np.float64]
    """(groups,) share of right answers."""
    rows: NDArray[np.int64]
    """(groups,) number of answers."""

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of accuracy from confidence, weighted by rows."""
        weights = self.rows / max(self.rows.sum(), 1)
        return float((weights * np.abs(self.accuracy - self.confidence)).sum())


def calibration(logits_NC: NDArray[np.float32], labels_N: NDArray[np.int64], *, groups: int = 10) -> Calibration:
    """Return the calibration of answers in groups of equal width (Guo et al. 2017, arXiv 1706.04599, eq. 2 and 3).

    Args:
        logits_NC: outputs before softmax.
        labels_N: the right classes.
        groups: number of groups between probabilities 0 and 1; empty ones are left out.
    """
    probabilities = softmax(logits_NC.astype(np.float64), axis=-1)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels_N
    group_of = np.minimum((confidence * groups).astype(int), groups - 1)
    counts = np.bincount(group_of, minlength=groups)
    there = counts > 0
    means = (np.bincount(group_of, values, minlength=groups)[there] / counts[there] for values in (confidence, right))
    mean_confidence, accuracy = means
    return Calibration(mean_confidence, accuracy, counts[there])
