"""Which words of a text may be replaced, and which tokens each of them is.

A word is what a reader takes for one: letters, digits and underscores up to the next space or sign. One of letters
alone that is no stop-word may be replaced. Scripts that put no space between words (Chinese, Japanese, Thai, …) are cut
as the tokenizer cuts them. Nothing here knows how a tokenizer marks its pieces: their places in the text tell.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from stages.data.batching.tokens import Tokens
from stages.text.scripts import UNSPACED_LETTERS, is_letters, is_mark


class Word(NamedTuple):
    """A word that may be replaced."""

    text: int
    """The number of its text."""
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last."""
    first: int
    """Its first token in the text's sequence."""
    last: int
    """The token after its last."""
    written: str
    """The word."""

    @property
    def is_one_token(self) -> bool:
        """Whether the vocabulary holds it whole."""
        return self.last - self.first == 1


@dataclass(frozen=True)
class Sequences:
    """Some texts as the model reads them, and their words."""

    tokens: Tokens
    words: list[Word]
    """Of one text after the other, in the order they stand in."""


class _Sequence(NamedTuple):
    ids: list[int]
    places: list[tuple[int, int]]
    """Which characters each token is; nothing for a special one."""
    is_cut: bool


def find_words(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, *, max_length: int, kept: Collection[str]
) -> Sequences:
    """Tokenise texts and find their words; what lies behind `max_length` tokens has none.

    Args:
        texts: the texts, none twice.
        tokenizer: the teacher's.
        max_length: the most tokens that the model can place.
        kept: stop-words in lower case.
    """
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False, verbose=False)
    sequences = [_Sequence(each.ids, each.offsets, bool(each.overflowing)) for each in encoded.encodings]
    words = [
        word
        for number, (text, sequence) in enumerate(zip(texts, sequences, strict=True))
        for word in _words_of(number, text, sequence)
        if word.written.lower() not in kept and is_letters(word.written)
    ]
    lengths = np.array([len(each.ids) for each in sequences], np.int32)
    ids = np.fromiter((one for each in sequences for one in each.ids), np.int32, lengths.sum())
    with_types = "token_type_ids" in tokenizer.model_input_names
    tokens = Tokens(
        ids=ids,
        lengths=lengths,
        types=np.zeros(len(ids), np.uint8) if with_types else None,
        labels=None,
        pad_token_id=int(tokenizer.pad_token_id),
        digest="",
        starts=np.cumsum(lengths, dtype=np.int64) - lengths,
    )
    return Sequences(tokens, words)


@cache
def _pattern() -> re.Pattern[str]:
    # `re` takes the vowel signs of Indian scripts, and accents that stand alone, for no part of a word.
    marks = "".join(re.escape(char) for char in map(chr, range(sys.maxunicode + 1)) if is_mark(char))
    return re.compile(f"([{UNSPACED_LETTERS}]+)|(?:[^\\W{UNSPACED_LETTERS}]|[{marks}])+")


def _words_of(number: int, text: str, sequence: _Sequence) -> Iterator[Word]:
    places = sequence.places
    # Special tokens have the place (0, 0): they end before any word begins, and overlap none.
    end_of_text = max((i + 1 for i, (_, end) in enumerate(places) if end), default=0)
    first = 0
    for match in _pattern().finditer(text):
        start, end = match.span()
        while first < end_of_text and places[first][1] <= start:
            first += 1
        last = first
        while last < end_of_text and places[last][0] < end:
            last += 1
        if first == last or (sequence.is_cut and last == end_of_text):
            continue
        run = Word(number, start, end, first, last, match.group())
        if match.group(1) is not None:
            yield from _pieces(text, sequence, run)
        elif _within(text, (places[first][0], places[last - 1][1]), (start, end)):
            yield run


def _pieces(text: str, sequence: _Sequence, run: Word) -> Iterator[Word]:
    """The tokens of an unspaced run as words of their own; those that share a character are one word."""
    first = run.first
    while first < run.last:
        start, end = _trimmed(text, sequence.places[first])
        last = first + 1
        while last < run.last and _trimmed(text, sequence.places[last])[0] < end:
            end = max(end, _trimmed(text, sequence.places[last])[1])
            last += 1
        if run.start <= start < end <= run.end:
            yield Word(run.text, start, end, first, last, text[start:end])
        first = last


def _within(text: str, place: tuple[int, int], word: tuple[int, int]) -> bool:
    if place[0] < word[0] or place[1] > word[1]:
        place = _trimmed(text, place)
    return place[0] >= word[0] and place[1] <= word[1]


def _trimmed(text: str, place: tuple[int, int]) -> tuple[int, int]:
    """A token's place without the space around it, which some tokenizers count in."""
    start, end = place
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
