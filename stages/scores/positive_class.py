"""The class that an F1 is about: the one that a task names, or the rarer of two.

F1 leaves right answers of the other class out, so it is made for what is rare: fraud, spam, a disease. Of two classes
the rarer one is nearly always meant, and always answering it gets little. Where the classes are nearly as large, which
is the rarer depends on the rows that happen to be there, so that two files of one task would be scored by different
classes; then it has to be said, as for more than two classes, and where a benchmark means the more frequent class.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.metrics import ABOUT_ONE_CLASS
from schemas.core.wording import printable, suggestion
from schemas.data.tasks import AnyTask
from stages.data.readers.files import listed

LARGEST_SHARE = 0.4
"""Share of the training rows up to which the smaller of two classes counts as the rare one."""


def positive_label(task: AnyTask, train: Dataset, labels: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """The class that `f1` and `accuracy_f1` of a task are about, and what is to be said of the choice.

    The class is None where it is not clear and nothing needs it.

    Args:
        task: may name it.
        train: its training rows, as they are learnt from.
        labels: its classes.

    Raises:
        DataError: the class named is none of the task's, or the task's metric needs one and it is not clear which.
    """
    named = task.positive_label
    if named is not None:
        if named not in labels:
            raise DataError(
                f"task.positive_label: {printable(named, 60)!r} is not one of {listed(labels)}"
                f"{suggestion(named, labels)}; name a label as the rows have it"
            )
        return named, ()
    counts = np.bincount(np.asarray(train["label"][:]), minlength=len(labels))
    rarer = int(counts.argmin())
    if len(labels) == 2 and counts[rarer] <= LARGEST_SHARE * counts.sum():
        return labels[rarer], _remark(task, labels[rarer], labels[1 - rarer])
    if task.main_metric in ABOUT_ONE_CLASS:
        raise DataError(f"task.metric: {unclear(task.main_metric, labels, counts.tolist())}")
    return None, ()


def _remark(task: AnyTask, rarer: str, other: str) -> tuple[str, ...]:
    if task.main_metric not in ABOUT_ONE_CLASS:
        return ()
    return (
        f"task.metric: {task.main_metric} is about {printable(rarer, 60)!r}, the rarer class of the training rows; set "
        f"task.positive_label to {printable(other, 60)} for the other",
    )


def unclear(metric: str, labels: tuple[str, ...], counts: list[int] | None = None) -> str:
    """Why a score cannot be told, and what to do: it is about one class, and none is named.

    Args:
        metric: the score.
        labels: the task's classes.
        counts: how many training rows each has; None where that is not known.
    """
    classes = listed(labels)
    if counts is not None and len(labels) == 2:
        classes = " and ".join(
            f"{printable(label, 60)!r} ({count:,} training rows)" for label, count in zip(labels, counts, strict=True)
        )
    return (
        f"{metric} is about one class, and of {classes} it is not clear which; name it with task.positive_label, or "
        "take f1_macro"
    )
