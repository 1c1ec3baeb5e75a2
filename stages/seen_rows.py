"""Validation rows whose text also stands in the training rows."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

_TEXTS = ("text", "text_pair", "words")


def plain_text(text: str) -> str:
    """The text without regard to case, spaces and punctuation: its letters, digits and marks alone."""
    return "".join(map(_kept, unicodedata.normalize("NFKC", text).casefold()))


@lru_cache(maxsize=1 << 17)
def _kept(character: str) -> str:
    return character if unicodedata.category(character)[0] in "LNM" else ""


def _keys(rows: Dataset) -> Iterator[bytes]:
    """A digest of each row's texts, in their order."""
    names = [name for name in _TEXTS if name in rows.column_names]
    for row in zip(*(rows[name] for name in names), strict=True):
        plain = [plain_text(part if isinstance(part, str) else " ".join(part)) for part in row]
        yield hashlib.blake2b("\0".join(plain).encode(), digest_size=16).digest()


def rows_in_train(train: Dataset, validation: Dataset) -> NDArray[np.bool_]:
    """(validation rows,): True where a row's texts, case, spaces and punctuation aside, are those of a training row."""
    known = set(_keys(train))
    return np.fromiter((key in known for key in _keys(validation)), bool, len(validation))
