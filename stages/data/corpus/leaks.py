"""Rows of a corpus that hold a task's validation text: found by runs of words, whatever case and punctuation.

The rule is GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C): a validation text of 13 words or more is held
where any 13 of its words stand together, one of 8 to 12 where all of them do. Shorter texts are not looked for: they
are phrases, and stand everywhere. A character of Chinese or Japanese counts as a word; in scripts that have no spaces
and no such characters (Thai, Lao) a stretch between two spaces does.
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
    """Hashes of runs of one length, sorted, and the task of each."""

    hashes: Hashes
    tasks: NDArray[np.int64]
    seen: NDArray[np.bool_]
    """By the lowest bits of a hash: whether any of the hashes has them."""


class HeldOut:
    """The validation texts of some tasks, as hashes of runs of words.

    Args:
        texts: each task's name and texts.
    """

    def __init__(self, texts: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.tasks = tuple(name for name, _ in texts)
        self.texts, self.too_short = 0, 0
        """Texts in all, and those of them that are not looked for."""
        found: dict[int, list[tuple[Hashes, int]]] = {}
        for task, (_, given) in enumerate(texts):
            self.texts += len(given)
            for batch in in_batches(given):
                for length, hashes in self._runs_of(letters_of(batch)):
                    found.setdefault(length, []).append((hashes, task))
        self.runs = {length: _sorted(parts) for length, parts in found.items()}

    @classmethod
    def of(cls, tasks: Sequence[TaskData], cache: Path) -> HeldOut:
        """The validation texts of tasks, and of their further validation rows.

        Raises:
            DataError: a task's data cannot be used.
        """
        return cls([(describe_task(task), validation_texts(load_task(task, cache, droppable=1))) for task in tasks])

    def _runs_of(self, letters: Letters) -> list[tuple[int, Hashes]]:
        words, rows = word_hashes(letters)
        counts = np.bincount(rows, minlength=len(letters))
        self.too_short += int((counts < MIN_WORDS).sum())
        found = []
        for length, hashes, texts in runs(words, rows, MOST_WORDS):
            if length >= MIN_WORDS:
                wanted = counts[texts] == length if length < MOST_WORDS else slice(None)
                found.append((length, hashes[wanted]))
        return found

    def found_in(self, letters: Letters) -> NDArray[np.int64]:
        """(texts,) the number of a task of which a text holds a validation text, or -1."""
        tasks = np.full(len(letters), -1)
        if not self.runs:
            return tasks
        words, rows = word_hashes(letters)
        for length, hashes, texts in runs(words, rows, MOST_WORDS):
            if (known := self.runs.get(length)) is None:
                continue
            perhaps = np.flatnonzero(known.seen[(hashes & _mask(known.seen)).astype(np.int64)])
            places = np.searchsorted(known.hashes, hashes[perhaps])
            places = np.minimum(places, len(known.hashes) - 1)
            held = known.hashes[places] == hashes[perhaps]
            tasks[texts[perhaps[held]]] = known.tasks[places[held]]
        return tasks


def _sorted(parts: Sequence[tuple[Hashes, int]]) -> _Runs:
    hashes = np.concatenate([hashes for hashes, _ in parts])
    tasks = np.concatenate([np.full(len(hashes), task) for hashes, task in parts])
    hashes, first = np.unique(hashes, return_index=True)
    # Sixteen places for each hash, so that few texts need a closer look.
    seen = np.zeros(1 << min(28, max(10, int(len(hashes) * 16).bit_length())), bool)
    seen[(hashes & _mask(seen)).astype(np.int64)] = True
    return _Runs(hashes, tasks[first], seen)


def _mask(seen: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(len(seen) - 1)


def held_out_digest(task: TaskData) -> str:
    """SHA-256 that changes with a task's validation texts, whatever is done with them."""
    beside: dict[str, Any] = {"max_length": 0, "max_train_rows": None, "metric": None}
    beside["positive_label"] = None
    return task_digest(task.model_copy(update=beside))


def validation_texts(rows: TaskRows) -> list[str]:
    """Every text that a task is validated on; both texts of a pair, words put together."""
    texts: list[str] = []
    for split in (rows.validation, *rows.more.values()):
        for column in ("text", "text_pair"):
            if column in split.column_names:
                texts += split[column][:]
        if "words" in split.column_names:
            texts += [" ".join(words) for words in split["words"]]
    return texts


def leaks_of(task: TaskData, rows: Dataset, cache: Path) -> LeakCount:
    """How many rows of a corpus hold a validation text of a task; nothing is left out for it.

    Args:
        task: whose validation texts are looked for.
        rows: the corpus's rows, such as `CorpusRows.train`.
        cache: folder for what is read once.
    """
    held_out = HeldOut.of([task], cache)
    number = 0
    examples: list[str] = []
    for batch in batches_of(rows, ["text"]):
        for texts in in_batches(batch.column(0).to_pylist()):
            found = np.flatnonzero(held_out.found_in(letters_of(texts)) >= 0).tolist()
            number += len(found)
            examples += [printable(texts[row], 160) for row in found[: EXAMPLES - len(examples)]]
    return LeakCount(
        task=describe_task(task),
        texts=held_out.texts - held_out.too_short,
        too_short=held_out.too_short,
        rows=number,
        share=number / max(1, len(rows)),
        examples=tuple(examples),
    )
