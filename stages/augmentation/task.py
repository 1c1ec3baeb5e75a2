"""A task with augmented training rows: the rows keep their labels, and the teacher alone labels the copies."""

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
class Augmenter:
    """Resources of one stage for augmenting training rows."""

    teacher_folder: Path
    """The pretrained teacher, whose predictions or embeddings are the candidates."""
    progress: Progress
    """Receives the progress."""
    stop_requested: Callable[[], bool] = lambda: False
    """Called now and then; True stops, and finished parts are kept."""
    precision: Precision = "auto"
    """Number format of the teacher's passes."""


def augmented_task(
    rows: TaskRows, learnt: NDArray[np.int64], config: Augmentation, augmenter: Augmenter, cache: Path
) -> TaskRows:
    """Return the task with its training rows and their copies; its validation rows stay the same.

    Args:
        rows: the task.
        learnt: the training rows to copy; the others are left out, so that no copy reveals a held-out row.
        config: the settings.
        augmenter: makes the copies.
        cache: folder that keeps the copies.

    Raises:
        ConfigError: the teacher lacks the required head, or a mask token.
        DataError: a file of the config cannot be read.
        Interrupted: a stop was requested.
    """
    originals = rows.train if len(learnt) == len(rows.train) else rows.train.select(learnt)
    of = digest_of({"rows": rows.digest, "learnt": None if originals is rows.train else learnt.tolist()})
    digest = augmentation_digest(config, augmenter.teacher_folder, of)
    augmented = augmented_rows(
        originals,
        config,
        augmenter.teacher_folder,
        digest=digest,
        cache=cache,
        progress=augmenter.progress,
        stop_requested=augmenter.stop_requested,
        precision=augmenter.precision,
    )
    train = augmented.select_columns([name for name in augmented.column_names if name in ("text", "text_pair")])
    if "label" in originals.column_names:
        labels = _labels(originals, np.asarray(augmented["row"]), np.asarray(augmented["variant"]))
        train = _with_labels(train, labels)
    return replace(rows, train=train, digest=digest)


def _labels(train: Dataset, row: np.ndarray, variant: np.ndarray) -> np.ndarray:
    """Return the label of each row; for its copies, the value that means no label."""
    originals = np.asarray(train["label"])
    if originals.dtype.kind == "f" or originals.ndim > 1:
        labels = originals.astype(np.float32)[row]
        labels[variant > 0] = np.nan
    else:
        labels = originals[row]
        labels[variant > 0] = NOT_LABELLED
    return labels


def _with_labels(rows: Dataset, labels: np.ndarray) -> Dataset:
    values: Any = pa.array(list(labels)) if labels.ndim > 1 else pa.array(labels)
    return rows.add_column("label", values, new_fingerprint=f"{rows._fingerprint}-labels")
