"""Rows of a corpus that were there before, exactly or almost; only hashes are kept of them, in memory or beside.

Almost the same are two texts of whose different five-letter pieces four fifths are in both (Jaccard similarity). It is
estimated by one-permutation MinHash (Li, Owen and Zhang 2012, arXiv:1208.1259) with empty bins filled from others
(Shrivastava 2017, arXiv:1703.04664), and candidates are found by banding: at four fifths 95 % of them, at nine tenths
all but one in ten thousand. `datasketch` does the same a row at a time, at less than a tenth of the speed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from stages.letters import Hashes, Letters, mixed, piece_hashes

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
SORTED_AT_ONCE = 1 << 21
"""Rows whose hashes are looked at together: some 70 MB."""


def repeated(hashes: Hashes, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the usable rows have the hash of an earlier usable row.

    Equal hashes have equal remainders, so the rows are sorted by parts, and few at once.
    """
    found = np.zeros(len(hashes), bool)
    parts = -(-len(hashes) // SORTED_AT_ONCE)
    for part in range(parts):
        rows = _of_part(hashes, usable, part, parts)
        order = rows[np.argsort(hashes[rows], kind="stable")]
        found[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return found


def _of_part(hashes: Hashes, usable: NDArray[np.bool_], part: int, parts: int) -> NDArray[np.int64]:
    found = []
    for start in range(0, len(hashes), SORTED_AT_ONCE):
        some = slice(start, start + SORTED_AT_ONCE)
        chosen = usable[some] & (hashes[some] % np.uint64(parts) == part)
        found.append(start + np.flatnonzero(chosen))
    return np.concatenate(found)


class Sketches:
    """What is kept of each row to find those almost like it: 256 bytes, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[NDArray[np.int64]] = []
        self.bands: list[IO[bytes]] = [
            (folder / f"band-{band:02d}").open("wb") for band in range(BANDS)
        ]
        self.bins = (folder / "bins").open("wb")

    def add(self, letters: Letters, first: int, usable: NDArray[np.bool_]) -> None:
        """Keep the sketches of some texts.

        Args:
            letters: the texts.
            first: the first one's row.
            usable: (texts,) leaves out those that are of no account.
        """
        chosen, bins = sketches(letters, usable)
        self.rows.append(first + chosen)
        self.bins.write((bins & np.uint64(0xFF)).astype(np.uint8).tobytes())
        for hashes, file in zip(_bands(bins).T, self.bands, strict=True):
            file.write(hashes.tobytes())

    def almost_repeated(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the usable rows are almost like an earlier usable row; the sketches are done with."""
        for file in (*self.bands, self.bins):
            file.close()
        rows = np.concatenate([np.empty(0, np.int64), *self.rows])
        counted = np.flatnonzero(usable[rows])
        found = np.zeros(len(rows), bool)
        for band in range(BANDS):
            hashes = np.fromfile(self.folder / f"band-{band:02d}", np.uint64)[counted]
            for earlier, later in _pairs(counted, hashes):
                open_still = ~found[later]
                self._compare(earlier[open_still], later[open_still], found)
        almost = np.zeros(len(usable), bool)
        almost[rows[found]] = True
        return almost

    def _compare(
        self, earlier: NDArray[np.int64], later: NDArray[np.int64], found: NDArray[np.bool_]
    ) -> None:
        for start in range(0, len(later), _PAIRS_AT_ONCE):
            pairs = slice(start, start + _PAIRS_AT_ONCE)
            equal = (self._bins_of(earlier[pairs]) == self._bins_of(later[pairs])).mean(axis=1)
            found[later[pairs]] |= (equal - _CHANCE) / (1 - _CHANCE) >= NEAR

    def _bins_of(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        # Read rather than mapped, so that what was read does not stay in memory.
        with (self.folder / "bins").open("rb") as file:
            handle = file.fileno()
            rows = [os.pread(handle, BINS, place * BINS) for place in places.tolist()]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, BINS)


def _pairs(
    places: NDArray[np.int64], hashes: Hashes
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places with the same hash: each with the one before it, and with the first."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
    yield places[order[same - 1]], places[order[same]]
    begins = np.ones(len(order), bool)
    begins[same] = False
    first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))[same]
    others = first != same - 1
    yield places[order[first[others]]], places[order[same[others]]]


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
