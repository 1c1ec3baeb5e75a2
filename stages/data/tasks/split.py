"""Validation rows taken out of the training rows, where a task has no file of them."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import QuestionAnswering, TaskKind
from stages.data.tasks.repeated_rows import row_hashes
from stages.data.tasks.stratified import drawn_rows
from stages.kinds.registry import kind_of


def split_rows(rows: Dataset, problem: TaskKind, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return training and validation rows, both in their order.

    Rows of equal text (but for case, spaces and punctuation), and all questions about one context, are on one side, or
    the score would be of text that was trained on. Every class keeps its share.

    Args:
        rows: all rows, checked.
        problem: kind of the task.
        share: share of the distinct texts to take out.
        seed: seed of the draw.

    Raises:
        DataError: there are fewer than two distinct texts.
    """
    grouped = rows.select_columns(["text_pair"]) if isinstance(problem, QuestionAnswering) else rows
    _, first, group_of = np.unique(row_hashes(grouped), return_index=True, return_inverse=True)
    if len(first) < 2:
        raise DataError("task.validation: the training rows have one text, which cannot be split; name a file of rows")
    # In the order of the file, not of the hashes.
    order = np.argsort(first)
    classes = kind_of(problem).classes(rows)
    wanted = max(1, round(share * len(first)))
    by = None if classes is None else classes[first[order]]
    drawn = order[drawn_rows(len(first), wanted, seed=seed, by=by, keep_one=by is not None)]
    is_drawn = np.isin(group_of, drawn)
    return rows.select(np.flatnonzero(~is_drawn)), rows.select(np.flatnonzero(is_drawn))
