"""Exact and near duplicates among the rows of a corpus, found by hashes kept in files.

Two texts are near duplicates if they share four fifths of their distinct five-letter pieces (Jaccard similarity). It is
estimated by one-permutation MinHash (Li, Owen and Zhang 2012, arXiv:1208.1259) with empty bins filled from others
(Shrivastava 2017, arXiv:1703.04664), and candidates are found by banding: 95 % of pairs at a similarity of four fifths,
all but one in ten thousand at nine tenths.

`rensa` and `datasketch` were measured and left out. Their index of bands lives in memory, which here does not grow
with the corpus. `rensa` takes 0.47 s per million characters if the pieces are made in Python, of which 0.06 s are spent
in Rust; this module takes 0.23 s. `datasketch` has less than a tenth of this speed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from stages.storage.mapped_columns import Column, slices, zeros
from stages.text.fingerprints import Hashes, Letters, mixed, piece_hashes

PIECE_LETTERS = 5
BINS, BANDS = 128, 16
NEAR = 0.8
# A text of fewer pieces is too short for the estimate; only its exact repetition is found.
MIN_PIECES = 40
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_BIN_BITS = np.uint64(57)
# Eight bits of each bin are kept to compare candidates by: one bin in 256 agrees by chance.
_CHANCE = 1 / 256
_PAIRS_AT_ONCE = 4096
_ROUNDS = 64
SORTED_AT_ONCE = 1 << 18
"""Hashes that are sorted together: about 9 MB."""


def repeated(hashes: Hashes, usable: NDArray[np.bool_], scratch: Path | None = None) -> NDArray[np.bool_]:
    """Return which of the usable rows have the hash of an earlier usable row.

    Args:
        hashes: (rows,) of each row.
        usable: (rows,) rows to consider; overwritten with the result.
        scratch: folder of temporary files; None for the system's.
    """
    for rows, same in _by_hash(hashes, usable, scratch):
        usable[rows] = same
    return usable


def _by_hash(
    hashes: Hashes, usable: NDArray[np.bool_], scratch: Path | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield the usable rows sorted by their hashes, some at a time, and which have the same hash as the one before.

    Many rows with one hash come in several pieces, each after the first and the last row of the pieces before.
    """
    with TemporaryDirectory(dir=scratch) as folder:
        all_keys, all_rows, ends = _in_parts(hashes, usable, Path(folder))
        for start, end in pairwise([0, *ends]):
            keys, rows = np.empty(0, np.uint64), np.empty(0, np.int64)
            for first in range(start, end, SORTED_AT_ONCE):
                some = slice(first, min(first + SORTED_AT_ONCE, end))
                keys = np.concatenate([keys, all_keys[some]])
                rows = np.concatenate([rows, all_rows[some]])
                order = np.argsort(keys, kind="stable")
                keys, rows = keys[order], rows[order]
                same = np.concatenate([[False], keys[1:] == keys[:-1]])
                yield rows, same
                outermost = ~same
                outermost[:-1] |= ~same[1:]
                outermost[-1] = True
                keys, rows = keys[outermost], rows[outermost]


def _in_parts(hashes: Hashes, usable: NDArray[np.bool_], folder: Path) -> tuple[Hashes, NDArray[np.int64], list[int]]:
    """Return the usable hashes and their rows, grouped by remainder and in order, and the end of each group.

    Equal hashes have equal remainders, and each remainder has about `SORTED_AT_ONCE` different ones.
    """
    parts = max(1, -(-len(hashes) // SORTED_AT_ONCE))
    kind = np.min_scalar_type(parts)  # numpy sorts small numbers by radix
    counts = np.zeros(parts, np.int64)
    for some in slices(len(hashes)):
        remainders = (hashes[some][usable[some]] % np.uint64(parts)).astype(kind)
        counts += np.bincount(remainders, minlength=parts)
    ends = np.cumsum(counts)
    keys = zeros(folder / "keys", int(ends[-1]), np.uint64)
    all_rows = zeros(folder / "rows", int(ends[-1]), np.int64)
    filled = ends - counts
    for some in slices(len(hashes)):
        rows = some.start + np.flatnonzero(usable[some])
        remainders = (hashes[rows] % np.uint64(parts)).astype(kind)
        order = np.argsort(remainders, kind="stable")
        counts = np.bincount(remainders, minlength=parts)
        filled += counts
        into = np.arange(len(rows)) + np.repeat(filled - np.cumsum(counts), counts)
        keys[into], all_rows[into] = hashes[rows[order]], rows[order]
    return keys, all_rows, ends.tolist()


class Sketches:
    """Sketches of rows to find near duplicates by: 264 bytes per row, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = Column(folder / "sketched", np.int64)
        self.bands = [Column(folder / f"band-{band:02d}", np.uint64) for band in range(BANDS)]
        self.bins = Column(folder / "bins", np.uint8)

    def add(self, letters: Letters, first: int, usable: NDArray[np.bool_]) -> None:
        """Store the sketches of some texts.

        Args:
            letters: the texts.
            first: row of the first text.
            usable: (texts,) texts to consider.
        """
        chosen, bins = sketches(letters, usable)
        self.rows.add(first + chosen)
        self.bins.add(bins & np.uint64(0xFF))
        for hashes, band in zip(_bands(bins).T, self.bands, strict=True):
            band.add(hashes)

    def almost_repeated(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the usable rows are near duplicates of an earlier one; overwrites `usable`."""
        rows = self.rows.mapped()
        counted = Column(self.folder / "counted", np.bool_)
        for some in slices(len(rows)):
            counted.add(usable[rows[some]])
        similar = zeros(self.folder / "similar", len(rows), np.bool_)
        for band in self.bands:
            for sketched, same in _by_hash(band.mapped(), counted.mapped(), self.folder):
                for earlier, later in _pairs(sketched, same):
                    undecided = ~similar[later]
                    self._compare(earlier[undecided], later[undecided], similar)
        usable[:] = False
        for some in slices(len(rows)):
            usable[rows[some][similar[some]]] = True
        return usable

    def _compare(self, earlier: NDArray[np.int64], later: NDArray[np.int64], similar: NDArray[np.bool_]) -> None:
        for start in range(0, len(later), _PAIRS_AT_ONCE):
            pairs = slice(start, start + _PAIRS_AT_ONCE)
            equal = (self._bins_of(earlier[pairs]) == self._bins_of(later[pairs])).mean(axis=1)
            similar[later[pairs]] |= (equal - _CHANCE) / (1 - _CHANCE) >= NEAR

    def _bins_of(self, sketched: NDArray[np.int64]) -> NDArray[np.uint8]:
        # Read rather than mapped, so that the pages do not stay in memory.
        with self.bins.path.open("rb") as file:
            handle = file.fileno()
            rows = [os.pread(handle, BINS, number * BINS) for number in sketched.tolist()]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, BINS)


def _pairs(rows: NDArray[np.int64], same: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of rows with the same hash: each row with the one before it, and with the first."""
    later = np.flatnonzero(same)
    yield rows[later - 1], rows[later]
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(same))))[later]
    others = first != later - 1
    yield rows[first[others]], rows[later[others]]


def sketches(letters: Letters, usable: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Hashes]:
    """Return the usable texts with enough pieces, and (texts, bins) the least hash in each of their bins."""
    hashes, rows = piece_hashes(letters, PIECE_LETTERS)
    bins = np.full(len(letters) * BINS, _EMPTY)
    np.minimum.at(bins, rows * BINS + (hashes >> _BIN_BITS).astype(np.int64), hashes)
    chosen = np.flatnonzero(usable & (np.bincount(rows, minlength=len(letters)) >= MIN_PIECES))
    return chosen, _filled(bins.reshape(-1, BINS)[chosen])


def _filled(bins: Hashes) -> Hashes:
    """Return the bins with each empty one filled from another, the same for all texts that have it."""
    filled = bins.copy()
    for attempt in range(_ROUNDS):
        row, column = np.nonzero(filled == _EMPTY)
        if not len(row):
            break
        key = np.uint64(attempt * BINS) + column.astype(np.uint64)
        filled[row, column] = bins[row, (mixed(key + np.uint64(1)) >> _BIN_BITS).astype(np.int64)]
    return filled


def _bands(bins: Hashes) -> Hashes:
    """Return a hash of each band's bins, (texts, bands)."""
    grouped = bins.reshape(len(bins), BANDS, BINS // BANDS)
    hashes = np.zeros(grouped.shape[:2], np.uint64)
    for column in range(grouped.shape[2]):
        hashes = mixed(hashes + grouped[:, :, column])
    return hashes
