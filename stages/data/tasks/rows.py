"""Checked rows of a task: incomplete rows left out, text and label columns in the form of the task's kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from datasets import Dataset

from schemas.core.errors import DataError
from schemas.data.cards import DataLimits
from stages.data.columns.text_columns import Task, flatten_objects
from stages.data.tasks.unlabelled import complete_rows, in_file_numbers
from stages.kinds.registry import kind_of
from stages.kinds.rows import CheckedRows


def checked_rows(
    task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str], *, droppable: float = DataLimits().dropped
) -> CheckedRows:
    """Return every split's rows in the form of the task's kind, and the names of a head's outputs.

    Args:
        task: the kind and the columns.
        raw: the splits as they were read, `train` first.
        where: the name of each split in messages.
        droppable: largest share of a split's rows that may be left out because they have no text or no label.

    Raises:
        DataError: a row is malformed; with split, row, column and what to do.
    """
    raw = {split: flatten_objects(task, rows) for split, rows in raw.items()}
    complete = complete_rows(task, raw, where, limit=droppable)
    try:
        checked = kind_of(task.problem).check(task, {split: kept.rows for split, kept in complete.kept.items()}, where)
    except DataError as error:
        raise DataError(in_file_numbers(str(error), complete, where)) from None
    dropped = {split: kept.dropped for split, kept in complete.kept.items()}
    return replace(checked, remarks=complete.remarks + checked.remarks, dropped=dropped)
