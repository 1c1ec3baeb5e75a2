"""Scores of a student's vectors against the teacher's, on any draw of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.scores.bootstrap import Resampler, of_mean, of_spearman, ratio


def of_cosines(labels: NDArray[Any], predictions: NDArray[Any]) -> Resampler:
    """Return the resampler of the mean cosine of each row's two vectors.

    Args:
        labels: (rows, width) the teacher's vectors.
        predictions: (rows, width) the student's.

    Raises:
        ValueError: the widths differ.
    """
    teacher, student = np.asarray(labels), np.asarray(predictions)
    if teacher.shape != student.shape:
        raise ValueError(
            f"cosine: the teacher's vectors are {teacher.shape[1]} wide and the student's {student.shape[1]}; score by "
            "similarity_spearman, which compares their similarities"
        )
    return of_mean(_cosines(teacher, student))


def of_similarities(labels: NDArray[Any], predictions: NDArray[Any]) -> Resampler:
    """Return the resampler of the rank correlation of both models' similarities over pairs of rows.

    A row is in one pair only, so that pairs can be drawn like rows; the pairs are drawn once and for all.

    Args:
        labels: (rows, width) the teacher's vectors.
        predictions: (rows, any width) the student's.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    half = len(order) // 2
    one, other = order[:half], order[half : 2 * half]
    if half == 0:
        return of_mean(np.zeros(len(labels)))
    teacher, student = (
        _cosines(vectors[one], vectors[other]) for vectors in (np.asarray(labels), np.asarray(predictions))
    )
    return of_spearman(teacher, student)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (rows,) cosines; 0 for a vector of zeros or with infinite numbers."""
    known = (np.isfinite(one).all(1) & np.isfinite(other).all(1))[:, None]
    one, other = (np.where(known, vectors, 0).astype(np.float64) for vectors in (one, other))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return ratio(np.einsum("rw,rw->r", one, other), lengths)
