"""A task whose training rows have copies with other words: the teacher alone labels a copy, the rows stay labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.base import digest_of
from schemas.data.augmentation import Augmentation
from stages.augmentation.rows import augmentation_digest, augmented_rows
from stages.data.batching.payloads import NOT_LABELLED
from stages.device.runtime import Precision
from stages.kinds.rows import TaskRows
from stages.ports.protocols import Progress


@dataclass(frozen=True)
class Copyist:
    """Makes copies of training rows, for one stage."""

    teacher_folder: Path
    """The pretrained teacher, whose predictions or embeddings say what may replace a word."""
    progress: Progress
    """Is told how far it is."""
    stop_requested: Callable[[], bool] = lambda: False
    """Asked now and then; True leaves, with what was finished kept."""
    precision: Precision = "auto"
    """Number format of the teacher's passes."""


def augmented_task(
    rows: TaskRows, learnt: NDArray[np.int64], config: Augmentation, copyist: Copyist, cache: Path
) -> TaskRows:
    """The task with its training rows and their copies; what is validated on stays as it is.

    Args:
        rows: the task.
        learnt: the training rows that copies are made of; the others are left out, so that no copy gives away what
            a held-out row says.
        config: how copies are made.
        copyist: makes them.
        cache: where they are kept.

    Raises:
        ConfigError: the teacher cannot say what is asked of it.
        DataError: a file that the config names cannot be read.
        Interrupted: somebody asked to stop.
    """
    own = rows.train if len(learnt) == len(rows.train) else rows.train.select(learnt)
    of = digest_of({"rows": rows.digest, "learnt": None if own is rows.train else learnt.tolist()})
    digest = augmentation_digest(config, copyist.teacher_folder, of)
    made = augmented_rows(
        own,
        config,
        copyist.teacher_folder,
        digest=digest,
        cache=cache,
        progress=copyist.progress,
        stop_requested=copyist.stop_requested,
        precision=copyist.precision,
    )
    train = made.select_columns([name for name in made.column_names if name in ("text", "text_pair")])
    if "label" in own.column_names:
        labels = _labels(own, np.asarray(made["row"]), np.asarray(made["variant"]))
        train = _with_labels(train, labels)
    return replace(rows, train=train, digest=digest)


def _labels(train: Dataset, row: np.ndarray, variant: np.ndarray) -> np.ndarray:
    """The label of each row itself; of its copies, what stands for none."""
    own = np.asarray(train["label"])
    if own.dtype.kind == "f" or own.ndim > 1:
        labels = own.astype(np.float32)[row]
        labels[variant > 0] = np.nan
    else:
        labels = own[row]
        labels[variant > 0] = NOT_LABELLED
    return labels


def _with_labels(rows: Dataset, labels: np.ndarray) -> Dataset:
    values: Any = pa.array(list(labels)) if labels.ndim > 1 else pa.array(labels)
    return rows.add_column("label", values, new_fingerprint=f"{rows._fingerprint}-labels")
