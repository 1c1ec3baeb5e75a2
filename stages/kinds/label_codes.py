"""Label names as numbers, errors about unknown names, and the label that a row is drawn by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.label_names import spelling_hint
from stages.data.readers.files import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.data.columns.text_columns import Task


def codes_of(names: pa.ChunkedArray, labels: tuple[str, ...]) -> pa.ChunkedArray:
    """Return the index of each name in `labels`; null for names that are not in it."""
    return pc.index_in(names, value_set=pa.array(labels, pa.string())).cast(pa.int64())


def unknown_label(task: Task, where: str, row: int, name: str, labels: tuple[str, ...]) -> DataError:
    """Return the error for a label that is none of the task's."""
    origin = "given as task.labels" if task.labels else "the labels of the training rows"
    return DataError(
        f"{where}: row {row}: label {printable(name, 60)!r} is not one of {listed(labels)} ({origin})"
        f"{spelling_hint(name, labels)}; fix the row, or list every label in task.labels"
    )


def rarest(rows: NDArray[np.int64], labels: NDArray[np.int64], *, number: int) -> NDArray[np.int64]:
    """Return (number,) the label of each row that the fewest rows have; -1 for a row without labels.

    Args:
        rows: (pairs,) the row of each pair of a row and a label that it has.
        labels: (pairs,) the label; repeated pairs count once.
        number: number of rows.
    """
    pairs = np.unique(np.stack([rows, labels], axis=1), axis=0)
    label_of = np.full(number, -1)
    if not len(pairs):
        return label_of
    frequency = np.bincount(pairs[:, 1])
    # The rarest label is written last, and so is the one that is kept.
    last = np.lexsort((pairs[:, 1], -frequency[pairs[:, 1]]))
    label_of[pairs[last, 0]] = pairs[last, 1]
    return label_of
