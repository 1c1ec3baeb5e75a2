"""Pairs of segments as in BERT's pretraining (Devlin et al. 2019, create_pretraining_data.py), as token positions.

A document's sentences are collected until they reach the target length. The first segment is a random number of them.
The second is the rest or, with `random_probability`, a stretch of another document; the rest is then collected again.
A pair that is too long loses tokens of its longer segment, at the front or the back at random.

One difference: a sentence longer than a sequence comes in several parts here instead of being truncated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.data.corpus import PairCut

_TRIES = 10

Pair = tuple[int, int, int, int]
"""First token and end of the first segment, and of the second."""


@dataclass
class Pairs:
    """The pairs of a text.

    Args:
        lengths: (sentences,) tokens of each.
        documents: (sentences,) a number that changes with the document.
        room: most tokens of both segments together.
        cut: the probabilities.
        seed: of all draws.
    """

    lengths: NDArray[np.integer]
    documents: NDArray[np.integer]
    room: int
    cut: PairCut
    seed: int

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        changes = np.flatnonzero(np.diff(self.documents)) + 1
        self.bounds = [0, *changes.tolist(), len(self.lengths)]
        self.random = random.Random(self.seed)

    def __iter__(self) -> Iterator[Pair]:
        """Yield every pair, document after document."""
        for document in range(len(self.bounds) - 1):
            yield from self._of_document(document)

    def _of_document(self, document: int) -> Iterator[Pair]:
        draw = self.random
        short = draw.random() < self.cut.short_probability
        target = draw.randint(2, self.room) if short else self.room
        start, end = self.bounds[document], self.bounds[document + 1]
        lengths = self.lengths[start:end].tolist()
        first = sentence = collected = 0
        while sentence < len(lengths):
            collected += lengths[sentence]
            if sentence == len(lengths) - 1 or collected >= target:
                number = sentence - first + 1
                of_first = 1 if number == 1 else draw.randint(1, number - 1)
                a = self._span(start + first, start + first + of_first)
                if number == 1 or draw.random() < self.cut.random_probability:
                    b = self._elsewhere(document, target - (a[1] - a[0]))
                    sentence = first + of_first - 1
                else:
                    b = self._span(start + first + of_first, start + sentence + 1)
                yield self._shortened(*a, *b)
                first, collected = sentence + 1, 0
            sentence += 1

    def _span(self, first: int, end: int) -> tuple[int, int]:
        return int(self.starts[first]), int(self.starts[end])

    def _elsewhere(self, document: int, wanted: int) -> tuple[int, int]:
        """Return sentences of another document up to the wanted number of tokens or its end."""
        for _ in range(_TRIES):
            other = self.random.randrange(len(self.bounds) - 1)
            if other != document:
                break
        end = self.bounds[other + 1]
        first = self.random.randrange(self.bounds[other], end)
        goal = self.starts[first] + max(wanted, 1)
        reached = int(np.searchsorted(self.starts[first : end + 1], goal))
        return self._span(first, min(first + reached, end))

    def _shortened(self, a: int, a_end: int, b: int, b_end: int) -> Pair:
        while a_end - a + b_end - b > self.room:
            from_front = self.random.random() < 0.5
            if a_end - a > b_end - b:
                a, a_end = (a + 1, a_end) if from_front else (a, a_end - 1)
            else:
                b, b_end = (b + 1, b_end) if from_front else (b, b_end - 1)
        return a, a_end, b, b_end
