"""Texts as their letters and digits alone, so that case, spaces and punctuation make no difference.

Hashes of whole texts, of runs of words and of pieces of words are made of them in arrays: nothing here is done for each
word or character by Python itself.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Letters behind this are of no living script, or not assigned.
_LAST_LETTER = 0x323AF
# Scripts without spaces, whose characters each count as a word: kana and the ideographs.
_WORDS_BY_THEMSELVES = (
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, _LAST_LETTER),
)
_LETTER, _WORD = 1, 2
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
# As letters these take about twenty megabytes, as encodings of a tokenizer about as much.
MOST_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Letters:
    """The letters and digits of some texts, folded, one text after the other."""

    codes: Hashes
    """(letters,) code points."""
    rows: NDArray[np.int64]
    """(letters,) which text each stands in."""
    starts: NDArray[np.int64]
    """(texts + 1,) where each text begins; the last number is their end."""
    begins_word: NDArray[np.bool_]
    """(letters,) whether a word begins with it."""

    def __len__(self) -> int:
        """How many texts."""
        return len(self.starts) - 1


@lru_cache(maxsize=1)
def _classes() -> NDArray[np.uint8]:
    """For each code point: 0, or whether it is a letter, digit or mark, or a word by itself."""
    classes = np.zeros(0x110000, np.uint8)
    classes[: _LAST_LETTER + 1] = [
        unicodedata.category(chr(code))[0] in "LNM" for code in range(_LAST_LETTER + 1)
    ]
    for first, last in _WORDS_BY_THEMSELVES:
        classes[first : last + 1] *= _WORD
    return classes


def letters_of(texts: Sequence[str]) -> Letters:
    """The letters of some texts; compatible characters (ﬁ and fi, Ａ and A) are the same."""
    folded = [
        text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.casefold())
        for text in texts
    ]
    lengths = np.fromiter(map(len, folded), np.int64, len(folded))
    codes = np.frombuffer("".join(folded).encode("utf-32-le"), "<u4")
    kinds = _classes()[codes]
    rows = np.repeat(np.arange(len(folded)), lengths)
    begins = np.ones(len(codes), bool)
    begins[1:] = (kinds[1:] == _WORD) | (kinds[:-1] != _LETTER) | (rows[1:] != rows[:-1])
    is_letter = kinds > 0
    rows = rows[is_letter]
    starts = np.searchsorted(rows, np.arange(len(folded) + 1))
    return Letters(codes[is_letter].astype(np.uint64), rows, starts, begins[is_letter])


def in_batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, about `MOST_CHARACTERS` at a time."""
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if place > start and size > MOST_CHARACTERS:
            yield texts[start:place]
            start, size = place, len(text)
    if start < len(texts):
        yield texts[start:]


def text_hashes(texts: Sequence[str], letters: Letters) -> Hashes:
    """A hash of each text's letters; where it has none, of the text as it is."""
    hashes = _sums(mixed(letters.codes + _positions(letters)), letters.starts)
    hashes = mixed(hashes + np.diff(letters.starts).astype(np.uint64))
    for row in np.flatnonzero(letters.starts[1:] == letters.starts[:-1]):
        digest = hashlib.blake2b(texts[int(row)].strip().encode("utf-8"), digest_size=8).digest()
        hashes[row] = int.from_bytes(digest, "little")
    return hashes


def _positions(letters: Letters) -> Hashes:
    """Each letter's place in its text, in the bits above those of a code point."""
    places = np.arange(len(letters.codes)) - letters.starts[letters.rows]
    return places.astype(np.uint64) << np.uint64(21)


def word_hashes(letters: Letters) -> tuple[Hashes, NDArray[np.int64]]:
    """A hash of each word, and the text that it stands in."""
    first = np.flatnonzero(letters.begins_word)
    word = np.cumsum(letters.begins_word) - 1
    places = (np.arange(len(letters.codes)) - first[word]).astype(np.uint64) << np.uint64(21)
    hashes = _sums(mixed(letters.codes + places), np.append(first, len(letters.codes)))
    return mixed(hashes), letters.rows[first]


def runs(
    hashes: Hashes, rows: NDArray[np.int64], most: int
) -> Iterator[tuple[int, Hashes, NDArray[np.int64]]]:
    """For each length up to `most`: a hash of every run of so many items inside one text, and the text."""
    run = hashes
    for length in range(1, most + 1):
        inside = rows[: len(run)] == rows[len(rows) - len(run) :]
        yield length, run[inside], rows[: len(run)][inside]
        run = run[:-1] * _ODD + hashes[length:]


def piece_hashes(letters: Letters, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """A hash of every `size` letters that stand together in a text, and the text."""
    run = letters.codes
    for place in range(1, size):
        run = run[:-1] * _ODD + letters.codes[place:]
    inside = letters.rows[: len(run)] == letters.rows[len(letters.rows) - len(run) :]
    return mixed(run[inside]), letters.rows[: len(run)][inside]


def _sums(values: Hashes, starts: NDArray[np.int64]) -> Hashes:
    """Sums of consecutive stretches, which may be empty."""
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    return before[starts[1:]] - before[starts[:-1]]


def mixed(values: Hashes) -> Hashes:
    """The finishing steps of splitmix64, which spread each bit over all."""
    spread = values ^ (values >> _SHIFTS[0])
    spread *= _FACTORS[0]
    spread ^= spread >> _SHIFTS[1]
    spread *= _FACTORS[1]
    spread ^= spread >> _SHIFTS[2]
    return spread
