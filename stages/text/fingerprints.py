"""Texts reduced to their letters, digits and signs, so that case, spaces and punctuation make no difference.

A sign is a character that a reader would miss: an emoji, an operator, a currency, a percent sign. Punctuation counts
inside numbers (`1.5`, `2-2`, `-5`) and in emoticons (`:)`). Hashes of whole texts, runs of words and pieces of words
are computed in arrays: nothing here loops over words or characters in Python.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stages.text.pieces import pieces_of
from stages.text.scripts import CHARACTER_WORDS

Hashes = NDArray[np.uint64]

# Code points above are unassigned, or of no living script.
_LAST_LETTER = 0x323AF
_LETTER, _WORD, _SIGN = 1, 2, 3
# Punctuation by category that means more than a pause: 50 % and 50, C# and C, #yes and yes, a/b and ab.
_SIGNS_OF_PUNCTUATION = "%‰*/\\&@#_"
# The backtick of programmers; the selectors of how the sign before is drawn (❤ and ❤️).
_NO_SIGNS = "`"
_VARIATION_SELECTORS = (0xFE00, 0xFE0F)
# Tags tell the flags of Scotland and Wales apart.
_TAGS = (0xE0020, 0xE007E)
_DIGIT, _PUNCTUATION, _EYES, _NOSE, _MOUTH = 1, 2, 4, 8, 16
_FACE_PARTS = {_EYES: ":;=", _NOSE: "-'^o", _MOUTH: "()[]{}|/\\*"}
_MINUS, _MINUS_SIGN, _DASHES = ord("-"), 0x2212, (0x2010, 0x2015)
# Raised digits and signs stay apart from plain ones: 10² is not 102.
_RAISED = {ord(raised): f"^{plain}" for raised, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True)}
_ANY_RAISED = re.compile(f"[{''.join(map(chr, _RAISED))}]")
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
MOST_CHARACTERS = 1 << 18
"""Characters of one batch: about 20 MB as letters, and as much again as the encodings of a tokenizer."""


@dataclass(frozen=True)
class Letters:
    """Letters, digits and signs of several texts, case-folded, one text after the other."""

    codes: Hashes
    """(letters,) code points."""
    rows: NDArray[np.int64]
    """(letters,) the text that each belongs to."""
    starts: NDArray[np.int64]
    """(texts + 1,) the first letter of each text; the last entry is the number of letters."""
    begins_word: NDArray[np.bool_]
    """(letters,) True where a word begins."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.starts) - 1


@lru_cache(maxsize=1)
def _classes() -> NDArray[np.uint8]:
    """Return the class of each code point: letter (digit, mark), word by itself, sign, or 0."""
    classes = np.zeros(0x110000, np.uint8)
    kinds = {"L": _LETTER, "N": _LETTER, "M": _LETTER, "S": _SIGN}
    classes[: _LAST_LETTER + 1] = [kinds.get(unicodedata.category(chr(code))[0], 0) for code in range(_LAST_LETTER + 1)]
    for first, last in CHARACTER_WORDS:
        classes[first : last + 1][classes[first : last + 1] == _LETTER] = _WORD
    classes[[ord(sign) for sign in _SIGNS_OF_PUNCTUATION]] = _SIGN
    classes[_TAGS[0] : _TAGS[1] + 1] = _SIGN
    classes[[ord(sign) for sign in _NO_SIGNS]] = 0
    classes[_VARIATION_SELECTORS[0] : _VARIATION_SELECTORS[1] + 1] = 0
    return classes


@lru_cache(maxsize=1)
def _roles() -> NDArray[np.uint8]:
    """Return the roles of each code point as bits: digit, punctuation, parts of an emoticon."""
    roles = np.zeros(0x110000, np.uint8)
    categories = [unicodedata.category(chr(code)) for code in range(_LAST_LETTER + 1)]
    roles[: _LAST_LETTER + 1] = [
        _DIGIT * (category[0] == "N") + _PUNCTUATION * (category[0] == "P") for category in categories
    ]
    for part, signs in _FACE_PARTS.items():
        roles[[ord(sign) for sign in signs]] |= part
    return roles


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    if _ANY_RAISED.search(text):
        text = text.translate(_RAISED)
    return unicodedata.normalize("NFKC", text.casefold())


def letters_of(texts: Sequence[str]) -> Letters:
    """Return the letters of some texts; compatible characters (ﬁ and fi, Ａ and A) are equal."""
    folded = [_folded(text) for text in texts]
    lengths = np.fromiter(map(len, folded), np.int64, len(folded))
    codes = _with_plain_minus(np.frombuffer("".join(folded).encode("utf-32-le"), "<u4"))
    rows = np.repeat(np.arange(len(folded)), lengths)
    kinds = _classes()[codes]
    _count_punctuation(kinds, codes, rows)
    begins = np.ones(len(codes), bool)
    begins[1:] = (kinds[1:] == _WORD) | (kinds[1:] != kinds[:-1]) | (rows[1:] != rows[:-1])
    counts = kinds > 0
    rows = rows[counts]
    starts = np.searchsorted(rows, np.arange(len(folded) + 1))
    return Letters(codes[counts].astype(np.uint64), rows, starts, begins[counts])


def _with_plain_minus(codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the code points with every dash as a minus."""
    dashes = ((codes >= _DASHES[0]) & (codes <= _DASHES[1])) | (codes == _MINUS_SIGN)
    return np.where(dashes, np.uint32(_MINUS), codes)


def _shifted(values: NDArray[np.uint8], texts: NDArray[np.int64], by: int) -> NDArray[np.uint8]:
    """Return the values `by` characters further on in the same text, 0 beyond its ends."""
    shifted = np.zeros_like(values)
    if by > 0:
        shifted[:-by] = values[by:] * (texts[by:] == texts[:-by])
    else:
        shifted[-by:] = values[:by] * (texts[:by] == texts[-by:])
    return shifted


def _count_punctuation(kinds: NDArray[np.uint8], codes: NDArray[np.uint32], rows: NDArray[np.int64]) -> None:
    """Mark punctuation in numbers as letters and emoticons as signs, in `kinds` in place."""
    roles = _roles()[codes]
    before, after = _shifted(roles, rows, -1), _shifted(roles, rows, 1)
    kind_before = _shifted(kinds, rows, -1)
    digit_follows = after & _DIGIT > 0
    inside = (before & _DIGIT > 0) & digit_follows
    # -5 and .5, but neither covid-19 nor a bullet.
    leads = digit_follows & ((kind_before == 0) | (kind_before == _SIGN))
    leads &= (codes == _MINUS) | (codes == ord("."))
    apart = (_shifted(roles, rows, -2) & _shifted(roles, rows, 2) & _DIGIT > 0) & (codes == _MINUS)
    apart &= (before | after) == 0
    kinds[(roles & _PUNCTUATION > 0) & (kinds == 0) & (inside | leads | apart)] = _LETTER
    if (roles & _EYES).any():
        _count_emoticons(kinds, roles, rows)


def _count_emoticons(kinds: NDArray[np.uint8], roles: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
    """Mark the characters of emoticons (`:)`, `;-(`, `(:`) as signs, in `kinds` in place."""
    after, second = _shifted(roles, rows, 1), _shifted(roles, rows, 2)
    eyes, mouth = roles & _EYES > 0, roles & _MOUTH > 0
    short = eyes & (after & _MOUTH > 0)
    long = eyes & (after & _NOSE > 0) & (second & _MOUTH > 0)
    # A bracket after a word belongs to the word: (see below):
    turned = mouth & (after & _EYES > 0) & (_shifted(kinds, rows, -1) == 0)
    for first, length in ((short, 2), (long, 3), (turned, 2)):
        for offset in range(length):
            counted = np.flatnonzero(first) + offset
            kinds[counted[kinds[counted] == 0]] = _SIGN


def in_batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in order, about `MOST_CHARACTERS` at a time."""
    for piece in pieces_of(np.fromiter(map(len, texts), np.int64, len(texts)), MOST_CHARACTERS):
        yield texts[piece]


def text_hashes(texts: Sequence[str], letters: Letters) -> Hashes:
    """Return a hash of each text's letters and signs; of the stripped text itself where it has none."""
    hashes = _sums(mixed(_numbers_apart(letters) + _positions(letters)), letters.starts)
    hashes = mixed(hashes + np.diff(letters.starts).astype(np.uint64))
    for row in np.flatnonzero(letters.starts[1:] == letters.starts[:-1]):
        digest = hashlib.blake2b(texts[int(row)].strip().encode("utf-8"), digest_size=8).digest()
        hashes[row] = int.from_bytes(digest, "little")
    return hashes


def _numbers_apart(letters: Letters) -> Hashes:
    """Return the code points, with a digit marked that begins a second number: `1 5` is not `15`."""
    is_digit = _roles()[letters.codes] & _DIGIT > 0
    apart = letters.begins_word & is_digit
    apart[1:] &= is_digit[:-1] & (letters.rows[1:] == letters.rows[:-1])
    apart[:1] = False
    return letters.codes | (apart.astype(np.uint64) << np.uint64(20))


def _positions(letters: Letters) -> Hashes:
    """Return each letter's position in its text, shifted above the bits of a code point."""
    positions = np.arange(len(letters.codes)) - letters.starts[letters.rows]
    return positions.astype(np.uint64) << np.uint64(21)


def word_hashes(letters: Letters) -> tuple[Hashes, NDArray[np.int64]]:
    """Return a hash of each word, and the text that the word is in."""
    first = np.flatnonzero(letters.begins_word)
    word = np.cumsum(letters.begins_word) - 1
    positions = (np.arange(len(letters.codes)) - first[word]).astype(np.uint64) << np.uint64(21)
    hashes = _sums(mixed(letters.codes + positions), np.append(first, len(letters.codes)))
    return mixed(hashes), letters.rows[first]


def runs(hashes: Hashes, rows: NDArray[np.int64], most: int) -> Iterator[tuple[int, Hashes, NDArray[np.int64]]]:
    """Yield each length up to `most` with a hash of every run of that many items inside one text, and the text."""
    run = hashes
    for length in range(1, most + 1):
        inside = rows[: len(run)] == rows[len(rows) - len(run) :]
        yield length, run[inside], rows[: len(run)][inside]
        run = run[:-1] * _ODD + hashes[length:]


def piece_hashes(letters: Letters, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return a hash of every `size` consecutive letters of a text, and the text."""
    run = letters.codes
    for offset in range(1, size):
        run = run[:-1] * _ODD + letters.codes[offset:]
    inside = letters.rows[: len(run)] == letters.rows[len(letters.rows) - len(run) :]
    return mixed(run[inside]), letters.rows[: len(run)][inside]


def _sums(values: Hashes, starts: NDArray[np.int64]) -> Hashes:
    """Return the sums of consecutive stretches, which may be empty."""
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    return before[starts[1:]] - before[starts[:-1]]


def mixed(values: Hashes) -> Hashes:
    """Apply the finishing steps of splitmix64, which spread each bit over all."""
    spread = values ^ (values >> _SHIFTS[0])
    spread *= _FACTORS[0]
    spread ^= spread >> _SHIFTS[1]
    spread *= _FACTORS[1]
    spread ^= spread >> _SHIFTS[2]
    return spread
