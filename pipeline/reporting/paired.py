"""Differences of two models' scores on the same rows, from the scores of resampled rows that the store keeps."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.store.checkpoints import CheckpointStore
from schemas.results.manifest import Row
from schemas.results.score import Draws, Score


def draws_of(row: Row | None, store: CheckpointStore) -> Draws | None:
    """Return a row's scores of resampled rows; None where the store keeps none."""
    kept = row.judgement.kept if row else None
    judgement = store.read_judgement(kept) if kept else None
    return judgement.draws if judgement else None


def paired_interval(
    first: Draws | None, second: Draws | None, measure: Literal["task", "probe"] = "task"
) -> tuple[float, float] | None:
    """Return the 95 % interval of the first model's score minus the second's; None without draws of the same rows."""
    if first is None or second is None or first.rows != second.rows:
        return None
    one, other = (getattr(draws, measure) for draws in (first, second))
    if not one or len(one) != len(other):
        return None
    low, high = np.quantile(np.subtract(one, other), [0.025, 0.975])
    return float(low), float(high)


def paired_difference(first: Row | None, second: Row | None, store: CheckpointStore) -> Score | None:
    """Return the first row's score of the task minus the second's; None where it has no paired interval."""
    interval = paired_interval(draws_of(first, store), draws_of(second, store))
    if first is None or second is None or interval is None:
        return None
    one, other = (row.judgement.task_metric for row in (first, second))
    if one is None or other is None:
        return None
    return Score(value=one - other, low=interval[0], high=interval[1])
