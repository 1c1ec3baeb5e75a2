"""Decontamination: rows of a corpus that contain a task's validation text, whatever the case and punctuation.

The rule is GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C): a row contains a validation text of 13 words or
more if it has any 13 consecutive words of it, and one of 8 to 12 words if it has them all. Shorter texts are ignored:
they are phrases that occur everywhere. A character of Chinese or Japanese counts as a word; in other scripts without
spaces (Thai, Lao) a stretch between two spaces does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.wording import printable
from schemas.data.corpus import LeakCount
from schemas.data.tasks import TaskData, describe_task
from stages.data.corpus.sources import batches_of
from stages.data.tasks.load import load_task, task_digest
from stages.kinds.rows import TaskRows
from stages.text.fingerprints import Hashes, Letters, in_batches, letters_of, runs, word_hashes

EXAMPLES = 5
MIN_WORDS, MOST_WORDS = 8, 13


@dataclass(frozen=True)
class _Runs:
    """Sorted hashes of runs of one length, and the task of each."""

    hashes: Hashes
    tasks: NDArray[np.int64]
    seen: NDArray[np.bool_]
    """Bloom filter: True at the lowest bits of every hash."""


class HeldOut:
    """Validation texts of some tasks, as hashes of runs of words.

    Args:
        texts: each task's name and texts.
    """

    def __init__(self, texts: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.tasks = tuple(name for name, _ in texts)
        self.texts, self.too_short = 0, 0
        """Number of texts, and of those too short to look for."""
        by_length: dict[int, list[tuple[Hashes, int]]] = {}
        for task, (_, task_texts) in enumerate(texts):
            self.texts += len(task_texts)
            for batch in in_batches(task_texts):
                for length, hashes in self._runs_of(letters_of(batch)):
                    by_length.setdefault(length, []).append((hashes, task))
        self.runs = {length: _sorted(parts) for length, parts in by_length.items()}

    @classmethod
    def of(cls, tasks: Sequence[TaskData], cache: Path) -> HeldOut:
        """Return the validation texts of some tasks, including their further validation rows.

        Raises:
            DataError: a task's data cannot be used.
        """
        return cls([(describe_task(task), validation_texts(load_task(task, cache, droppable=1))) for task in tasks])

    def _runs_of(self, letters: Letters) -> list[tuple[int, Hashes]]:
        words, rows = word_hashes(letters)
        counts = np.bincount(rows, minlength=len(letters))
        self.too_short += int((counts < MIN_WORDS).sum())
        by_length = []
        for length, hashes, texts in runs(words, rows, MOST_WORDS):
            if length >= MIN_WORDS:
                wanted = counts[texts] == length if length < MOST_WORDS else slice(None)
                by_length.append((length, hashes[wanted]))
        return by_length

    def tasks_of(self, letters: Letters) -> NDArray[np.int64]:
        """Return the index of a task whose validation text each text contains, or -1; (texts,)."""
        tasks = np.full(len(letters), -1)
        if not self.runs:
            return tasks
        words, rows = word_hashes(letters)
        for length, hashes, texts in runs(words, rows, MOST_WORDS):
            if (known := self.runs.get(length)) is None:
                continue
            candidates = np.flatnonzero(known.seen[(hashes & _mask(known.seen)).astype(np.int64)])
            nearest = np.searchsorted(known.hashes, hashes[candidates])
            nearest = np.minimum(nearest, len(known.hashes) - 1)
            equal = known.hashes[nearest] == hashes[candidates]
            tasks[texts[candidates[equal]]] = known.tasks[nearest[equal]]
        return tasks


def _sorted(parts: Sequence[tuple[Hashes, int]]) -> _Runs:
    hashes = np.concatenate([hashes for hashes, _ in parts])
    tasks = np.concatenate([np.full(len(hashes), task) for hashes, task in parts])
    hashes, first = np.unique(hashes, return_index=True)
    # Sixteen entries per hash, so that few runs need a binary search.
    seen = np.zeros(1 << min(28, max(10, int(len(hashes) * 16).bit_length())), bool)
    seen[(hashes & _mask(seen)).astype(np.int64)] = True
    return _Runs(hashes, tasks[first], seen)


def _mask(seen: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(len(seen) - 1)


def held_out_digest(task: TaskData) -> str:
    """Return the SHA-256 of a task's validation texts, without the settings that do not change them."""
    beside: dict[str, Any] = {"max_length": 0, "max_train_rows": None, "metric": None}
    beside["positive_label"] = None
    return task_digest(task.model_copy(update=beside))


def validation_texts(rows: TaskRows) -> list[str]:
    """Return every text that a task is validated on: both texts of a pair, words joined by blanks."""
    texts: list[str] = []
    for split in (rows.validation, *rows.more.values()):
        for column in ("text", "text_pair"):
            if column in split.column_names:
                texts += split[column][:]
        if "words" in split.column_names:
            texts += [" ".join(words) for words in split["words"]]
    return texts


def leaks_of(task: TaskData, rows: Dataset, cache: Path) -> LeakCount:
    """Count the rows of a corpus that contain a validation text of a task.

    Args:
        task: the task.
        rows: the corpus's rows, such as `CorpusRows.train`.
        cache: folder that keeps what was read.
    """
    held_out = HeldOut.of([task], cache)
    number = 0
    examples: list[str] = []
    for batch in batches_of(rows, ["text"]):
        for texts in in_batches(batch.column(0).to_pylist()):
            leaks = np.flatnonzero(held_out.tasks_of(letters_of(texts)) >= 0).tolist()
            number += len(leaks)
            examples += [printable(texts[row], 160) for row in leaks[: EXAMPLES - len(examples)]]
    return LeakCount(
        task=describe_task(task),
        texts=held_out.texts - held_out.too_short,
        too_short=held_out.too_short,
        rows=number,
        share=number / max(1, len(rows)),
        examples=tuple(examples),
    )
