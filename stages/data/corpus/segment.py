"""Cuts: the ways in which tokens of a corpus's rows or sentences become sequences."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.data.corpus import PairCut
from stages.data.corpus.segment_pairs import Pair, Pairs
from stages.data.corpus.special_tokens import Ids
from stages.storage.mapped_columns import Column

Lengths = NDArray[np.int64]
Segments = tuple[Ids, list[Lengths]]
"""Tokens of some sequences, and (sequences,) how many belong to each one's first text, and to its second."""
_PAIRS_AT_ONCE = 2048


class Cut(Protocol):
    """Maker of sequences from pieces, which are rows or sentences."""

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Segments]:
        """Add pieces, none of them empty, and yield the sequences that are complete."""
        ...

    def finish(self) -> Iterator[Segments]:
        """Yield what is left of a source; the next pieces belong to another source."""
        ...


def parts_of_pieces(lengths: Lengths, room: int) -> tuple[Lengths, Lengths]:
    """Split pieces into parts of at most `room` tokens; return the lengths of the parts, and the piece of each."""
    numbers = -(-lengths // room)
    pieces = np.repeat(np.arange(len(lengths)), numbers)
    parts = np.full(len(pieces), room)
    last = np.cumsum(numbers) - 1
    parts[last] = lengths - (numbers - 1) * room
    return parts, pieces


class EachPiece:
    """Cut that makes each piece a sequence, or several if it is long."""

    def __init__(self, room: int) -> None:
        self.room = room

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Segments]:
        """Yield the pieces at once."""
        yield flat, [parts_of_pieces(lengths, self.room)[0]]

    def finish(self) -> Iterator[Segments]:
        """Yield nothing: nothing is ever left."""
        return iter(())


class Packed:
    """Cut that fills sequences with as many pieces as fit, of one document or across documents."""

    def __init__(self, room: int, *, across_documents: bool) -> None:
        self.room, self.across_documents = room, across_documents
        self.left = np.empty(0, np.int32)
        self.document = -1

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Segments]:
        """Yield all sequences except the last, which may grow."""
        parts, pieces = parts_of_pieces(lengths, self.room)
        done = []
        current = len(self.left)
        for length, document in zip(parts.tolist(), documents[pieces].tolist(), strict=True):
            ends = document != self.document and not self.across_documents
            if current and (ends or current + length > self.room):
                done.append(current)
                current = 0
            current += length
            self.document = document
        flat = np.concatenate([self.left, flat])
        end = len(flat) - current
        self.left = flat[end:]
        if done:
            yield flat[:end], [np.array(done, np.int64)]

    def finish(self) -> Iterator[Segments]:
        """Yield the last sequence."""
        if len(self.left):
            yield self.left, [np.array([len(self.left)])]
        self.left, self.document = np.empty(0, np.int32), -1


class SegmentPairs:
    """Cut that makes pairs of segments; second ones may come from any document, so a source is kept in files.

    Args:
        room: most tokens of both segments together.
        cut: the probabilities.
        seed: of all draws.
        scratch: folder of the files, which exists while there are any.
    """

    def __init__(self, room: int, cut: PairCut, seed: int, scratch: Path) -> None:
        self.room, self.cut, self.seed, self.scratch = room, cut, seed, scratch
        self.kept: list[Column] = []
        """Tokens, and the length and the document of each piece; empty if there are none."""

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Segments]:
        """Store the pieces; no pair is complete before the end of the source."""
        if not self.kept:
            self.scratch.mkdir()
            names = ("tokens", "lengths", "documents")
            self.kept = [Column(self.scratch / name, np.int32) for name in names]
        parts, pieces = parts_of_pieces(lengths, self.room)
        tokens, all_lengths, all_documents = self.kept
        tokens.add(flat)
        all_lengths.add(parts)
        all_documents.add(documents[pieces])
        return iter(())

    def finish(self) -> Iterator[Segments]:
        """Yield all pairs of the source."""
        if not self.kept:
            return
        tokens, lengths, documents = self.kept
        pairs = iter(Pairs(lengths.mapped(), documents.mapped(), self.room, self.cut, self.seed))
        with tokens.path.open("rb") as file:
            while some := list(islice(pairs, _PAIRS_AT_ONCE)):
                yield _read(some, file.fileno())
        shutil.rmtree(self.scratch)
        self.kept = []


def _read(pairs: list[Pair], file: int) -> Segments:
    # Read rather than mapped, so that the pages do not stay in memory.
    segments = [
        os.pread(file, 4 * (end - start), 4 * start)
        for a, a_end, b, b_end in pairs
        for start, end in ((a, a_end), (b, b_end))
    ]
    ends = np.array(pairs)
    flat = np.frombuffer(b"".join(segments), np.int32)
    return flat, [ends[:, 1] - ends[:, 0], ends[:, 3] - ends[:, 2]]
