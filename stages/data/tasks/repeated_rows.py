"""Rows of a task whose text is also in the training rows, or earlier in the same split."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from stages.text.fingerprints import Hashes, in_batches, letters_of, mixed, text_hashes

_TEXTS = ("text", "text_pair", "choices", "words")


def row_hashes(rows: Dataset) -> Hashes:
    """Return (rows,) a hash of each row's texts, ignoring case, spaces and punctuation."""
    combined = np.zeros(len(rows), np.uint64)
    for name in _TEXTS:
        if name not in rows.column_names:
            continue
        texts = [text if isinstance(text, str) else " ".join(text) for text in rows[name]]
        hashes = [text_hashes(batch, letters_of(batch)) for batch in in_batches(texts)]
        combined = mixed(combined) + np.concatenate(hashes)
    return combined


def rows_in_train(train: Dataset, validation: Dataset) -> NDArray[np.bool_]:
    """Return (validation rows,) True where a training row has the same texts, ignoring case, spaces and punctuation."""
    return np.isin(row_hashes(validation), row_hashes(train))
