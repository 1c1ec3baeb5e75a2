"""Rows of a corpus that were there before, exactly or almost; only hashes are kept of them, in files.

Almost the same are two texts of whose different five-letter pieces four fifths are in both (Jaccard similarity). It is
estimated by one-permutation MinHash (Li, Owen and Zhang 2012, arXiv:1208.1259) with empty bins filled from others
(Shrivastava 2017, arXiv:1703.04664), and candidates are found by banding: at four fifths 95 % of them, at nine tenths
all but one in ten thousand. `datasketch` does the same a row at a time, at less than a tenth of the speed.
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
# A text of fewer pieces has too few of them to be compared so; only its exact repetition is found.
MIN_PIECES = 40
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_BIN_BITS = np.uint64(57)
# Kept of each bin to compare candidates by: by chance one in 256 bins agrees.
_CHANCE = 1 / 256
_PAIRS_AT_ONCE = 4096
_ROUNDS = 64
SORTED_AT_ONCE = 1 << 18
"""Hashes that are sorted together: some 9 MB."""


def repeated(hashes: Hashes, usable: NDArray[np.bool_], scratch: Path | None = None) -> NDArray[np.bool_]:
    """Which of the usable rows have the hash of an earlier usable row.

    Args:
        hashes: (rows,) of each row.
        usable: (rows,) leaves out those that are of no account; the result takes its place.
        scratch: folder for what is not kept in memory; the system's where None.
    """
    for rows, same in _by_hash(hashes, usable, scratch):
        usable[rows] = same
    return usable


def _by_hash(
    hashes: Hashes, usable: NDArray[np.bool_], scratch: Path | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """The usable places sorted by their hashes, few at once, and which have the hash of the one before.

    Where many places have one hash they come in several pieces, with the first and the last of those before.
    """
    with TemporaryDirectory(dir=scratch) as folder:
        all_keys, all_places, ends = _in_parts(hashes, usable, Path(folder))
        for start, end in pairwise([0, *ends]):
            keys, places = np.empty(0, np.uint64), np.empty(0, np.int64)
            for first in range(start, end, SORTED_AT_ONCE):
                some = slice(first, min(first + SORTED_AT_ONCE, end))
                keys = np.concatenate([keys, all_keys[some]])
                places = np.concatenate([places, all_places[some]])
                order = np.argsort(keys, kind="stable")
                keys, places = keys[order], places[order]
                same = np.concatenate([[False], keys[1:] == keys[:-1]])
                yield places, same
                outermost = ~same
                outermost[:-1] |= ~same[1:]
                outermost[-1] = True
                keys, places = keys[outermost], places[outermost]


def _in_parts(hashes: Hashes, usable: NDArray[np.bool_], folder: Path) -> tuple[Hashes, NDArray[np.int64], list[int]]:
    """The usable hashes and their places, those of one remainder together and in order; and where each of these ends.

    Equal hashes have equal remainders, and of different ones each remainder has about `SORTED_AT_ONCE`.
    """
    parts = max(1, -(-len(hashes) // SORTED_AT_ONCE))
    kind = np.min_scalar_type(parts)  # small numbers are sorted without being compared
    counts = np.zeros(parts, np.int64)
    for some in slices(len(hashes)):
        remainders = (hashes[some][usable[some]] % np.uint64(parts)).astype(kind)
        counts += np.bincount(remainders, minlength=parts)
    ends = np.cumsum(counts)
    keys = zeros(folder / "keys", int(ends[-1]), np.uint64)
    places = zeros(folder / "places", int(ends[-1]), np.int64)
    filled = ends - counts
    for some in slices(len(hashes)):
        rows = some.start + np.flatnonzero(usable[some])
        remainders = (hashes[rows] % np.uint64(parts)).astype(kind)
        order = np.argsort(remainders, kind="stable")
        counts = np.bincount(remainders, minlength=parts)
        filled += counts
        into = np.arange(len(rows)) + np.repeat(filled - np.cumsum(counts), counts)
        keys[into], places[into] = hashes[rows[order]], rows[order]
    return keys, places, ends.tolist()


class Sketches:
    """What is kept of each row to find those almost like it: 264 bytes, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = Column(folder / "sketched", np.int64)
        self.bands = [Column(folder / f"band-{band:02d}", np.uint64) for band in range(BANDS)]
        self.bins = Column(folder / "bins", np.uint8)

    def add(self, letters: Letters, first: int, usable: NDArray[np.bool_]) -> None:
        """Keep the sketches of some texts.

        Args:
            letters: the texts.
            first: the first one's row.
            usable: (texts,) leaves out those that are of no account.
        """
        chosen, bins = sketches(letters, usable)
        self.rows.add(first + chosen)
        self.bins.add(bins & np.uint64(0xFF))
        for hashes, band in zip(_bands(bins).T, self.bands, strict=True):
            band.add(hashes)

    def almost_repeated(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the usable rows are almost like an earlier usable row; the result takes the place of `usable`."""
        rows = self.rows.mapped()
        counted = Column(self.folder / "counted", np.bool_)
        for some in slices(len(rows)):
            counted.add(usable[rows[some]])
        found = zeros(self.folder / "found", len(rows), np.bool_)
        for band in self.bands:
            for places, same in _by_hash(band.mapped(), counted.mapped(), self.folder):
                for earlier, later in _pairs(places, same):
                    open_still = ~found[later]
                    self._compare(earlier[open_still], later[open_still], found)
        usable[:] = False
        for some in slices(len(rows)):
            usable[rows[some][found[some]]] = True
        return usable

    def _compare(self, earlier: NDArray[np.int64], later: NDArray[np.int64], found: NDArray[np.bool_]) -> None:
        for start in range(0, len(later), _PAIRS_AT_ONCE):
            pairs = slice(start, start + _PAIRS_AT_ONCE)
            equal = (self._bins_of(earlier[pairs]) == self._bins_of(later[pairs])).mean(axis=1)
            found[later[pairs]] |= (equal - _CHANCE) / (1 - _CHANCE) >= NEAR

    def _bins_of(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        # Read rather than mapped, so that what was read does not stay in memory.
        with self.bins.path.open("rb") as file:
            handle = file.fileno()
            rows = [os.pread(handle, BINS, place * BINS) for place in places.tolist()]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, BINS)


def _pairs(places: NDArray[np.int64], same: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places with the same hash: each with the one before it, and with the first."""
    later = np.flatnonzero(same)
    yield places[later - 1], places[later]
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(same))))[later]
    others = first != later - 1
    yield places[first[others]], places[later[others]]


def sketches(letters: Letters, usable: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Hashes]:
    """The usable texts that have pieces enough, and (those, bins) the least hash in each of their bins."""
    hashes, rows = piece_hashes(letters, PIECE_LETTERS)
    places = rows * BINS + (hashes >> _BIN_BITS).astype(np.int64)
    bins = np.full(len(letters) * BINS, _EMPTY)
    np.minimum.at(bins, places, hashes)
    chosen = np.flatnonzero(usable & (np.bincount(rows, minlength=len(letters)) >= MIN_PIECES))
    return chosen, _filled(bins.reshape(-1, BINS)[chosen])


def _filled(bins: Hashes) -> Hashes:
    """The bins with each empty one filled from another, the same for all texts as long as it has something."""
    filled = bins.copy()
    for attempt in range(_ROUNDS):
        row, place = np.nonzero(filled == _EMPTY)
        if not len(row):
            break
        key = np.uint64(attempt * BINS) + place.astype(np.uint64)
        filled[row, place] = bins[row, (mixed(key + np.uint64(1)) >> _BIN_BITS).astype(np.int64)]
    return filled


def _bands(bins: Hashes) -> Hashes:
    """(texts, bands): a hash of each band's bins."""
    grouped = bins.reshape(len(bins), BANDS, BINS // BANDS)
    hashes = np.zeros(grouped.shape[:2], np.uint64)
    for place in range(grouped.shape[2]):
        hashes = mixed(hashes + grouped[:, :, place])
    return hashes
