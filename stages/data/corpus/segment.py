"""How the tokens of a corpus's rows or sentences become sequences."""

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
Made = tuple[Ids, list[Lengths]]
"""Tokens of some sequences' texts, and how many are each text's."""
_PAIRS_AT_ONCE = 2048


class Cut(Protocol):
    """Makes sequences of pieces: rows, or sentences."""

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Made]:
        """Take pieces, none of them empty; give sequences that are done."""
        ...

    def finish(self) -> Iterator[Made]:
        """Give what is left; what comes then is another source's."""
        ...


def parts_of_pieces(lengths: Lengths, room: int) -> tuple[Lengths, Lengths]:
    """Lengths of the parts that pieces make when none may be longer than `room`, and the piece of each."""
    numbers = -(-lengths // room)
    pieces = np.repeat(np.arange(len(lengths)), numbers)
    parts = np.full(len(pieces), room)
    last = np.cumsum(numbers) - 1
    parts[last] = lengths - (numbers - 1) * room
    return parts, pieces


class EachPiece:
    """Each piece is a sequence, or several where it is long."""

    def __init__(self, room: int) -> None:
        self.room = room

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Made]:
        """Give them at once."""
        yield flat, [parts_of_pieces(lengths, self.room)[0]]

    def finish(self) -> Iterator[Made]:
        """Nothing is ever left."""
        return iter(())


class Packed:
    """As many pieces as fit, one after the other, of one document or across documents."""

    def __init__(self, room: int, *, across_documents: bool) -> None:
        self.room, self.across_documents = room, across_documents
        self.left = np.empty(0, np.int32)
        self.document = -1

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Made]:
        """Give all sequences but the last, which may go on."""
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

    def finish(self) -> Iterator[Made]:
        """Give the last sequence."""
        if len(self.left):
            yield self.left, [np.array([len(self.left)])]
        self.left, self.document = np.empty(0, np.int32), -1


class SegmentPairs:
    """Pairs of segments. Those of other documents may come from anywhere, so all of a source is kept in files.

    Args:
        room: most tokens of both segments.
        cut: the probabilities.
        seed: decides every draw.
        scratch: folder of the files, which is there while there is something in them.
    """

    def __init__(self, room: int, cut: PairCut, seed: int, scratch: Path) -> None:
        self.room, self.cut, self.seed, self.scratch = room, cut, seed, scratch
        self.kept: list[Column] = []
        """Tokens; the length and the document of each piece. Nothing where there are none."""

    def add(self, flat: Ids, lengths: Lengths, documents: Lengths) -> Iterator[Made]:
        """Keep them; nothing is done before the source's end."""
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

    def finish(self) -> Iterator[Made]:
        """Give all pairs of the source."""
        if not self.kept:
            return
        tokens, lengths, documents = self.kept
        pairs = iter(Pairs(lengths.mapped(), documents.mapped(), self.room, self.cut, self.seed))
        with tokens.path.open("rb") as file:
            while some := list(islice(pairs, _PAIRS_AT_ONCE)):
                yield _read(some, file.fileno())
        shutil.rmtree(self.scratch)
        self.kept = []


def _read(pairs: list[Pair], file: int) -> Made:
    # Read rather than mapped, so that what was read does not stay in memory.
    segments = [
        os.pread(file, 4 * (end - start), 4 * start)
        for a, a_end, b, b_end in pairs
        for start, end in ((a, a_end), (b, b_end))
    ]
    places = np.array(pairs)
    flat = np.frombuffer(b"".join(segments), np.int32)
    return flat, [places[:, 1] - places[:, 0], places[:, 3] - places[:, 2]]
