"""Words of a text that may be replaced, and the tokens of each.

A word is a run of letters, digits and underscores up to the next space or sign. Words of letters alone that are no
stop-words may be replaced. Scripts without spaces between words (Chinese, Japanese, Thai, …) are split as the tokenizer
splits them. Nothing here depends on how a tokenizer marks its pieces: their offsets in the text are enough.
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

from stages.data.batching.payloads import Payload
from stages.data.batching.tokens import Tokens
from stages.text.scripts import UNSPACED_LETTERS, is_letters, is_mark


class Word(NamedTuple):
    """A word that may be replaced."""

    text: int
    """Index of its text."""
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
        """True if the word is a single token."""
        return self.last - self.first == 1


@dataclass(frozen=True)
class Sequences:
    """Tokenised texts and their words."""

    tokens: Tokens
    words: list[Word]
    """Of one text after the other, in order."""


class _Sequence(NamedTuple):
    ids: list[int]
    offsets: list[tuple[int, int]]
    """First character of each token, and the one after its last; (0, 0) for a special token."""
    is_truncated: bool


def find_words(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, *, max_length: int, kept: Collection[str]
) -> Sequences:
    """Tokenise texts and find their words among the first `max_length` tokens.

    Args:
        texts: all different.
        tokenizer: the teacher's.
        max_length: the model's positions.
        kept: stop-words in lower case.
    """
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False, verbose=False)
    sequences = [_Sequence(text.ids, text.offsets, bool(text.overflowing)) for text in encoded.encodings]
    words = [
        word
        for number, (text, sequence) in enumerate(zip(texts, sequences, strict=True))
        for word in _words_of(number, text, sequence)
        if word.written.lower() not in kept and is_letters(word.written)
    ]
    lengths = np.array([len(sequence.ids) for sequence in sequences], np.int32)
    ids = np.fromiter((token for sequence in sequences for token in sequence.ids), np.int32, lengths.sum())
    with_types = "token_type_ids" in tokenizer.model_input_names
    tokens = Tokens(
        ids=ids,
        lengths=lengths,
        types=np.zeros(len(ids), np.uint8) if with_types else None,
        payload=Payload(),
        pad_token_id=int(tokenizer.pad_token_id),
        digest="",
        starts=np.cumsum(lengths, dtype=np.int64) - lengths,
    )
    return Sequences(tokens, words)


@cache
def _pattern() -> re.Pattern[str]:
    # To `re`, vowel signs of Indian scripts and separate accents are no part of a word.
    marks = "".join(re.escape(char) for char in map(chr, range(sys.maxunicode + 1)) if is_mark(char))
    return re.compile(f"([{UNSPACED_LETTERS}]+)|(?:[^\\W{UNSPACED_LETTERS}]|[{marks}])+")


def _words_of(number: int, text: str, sequence: _Sequence) -> Iterator[Word]:
    offsets = sequence.offsets
    # Special tokens have the offsets (0, 0): they end before any word begins, and overlap none.
    end_of_text = max((i + 1 for i, (_, end) in enumerate(offsets) if end), default=0)
    first = 0
    for match in _pattern().finditer(text):
        start, end = match.span()
        while first < end_of_text and offsets[first][1] <= start:
            first += 1
        last = first
        while last < end_of_text and offsets[last][0] < end:
            last += 1
        if first == last or (sequence.is_truncated and last == end_of_text):
            continue
        run = Word(number, start, end, first, last, match.group())
        if match.group(1) is not None:
            yield from _pieces(text, sequence, run)
        elif _within(text, (offsets[first][0], offsets[last - 1][1]), (start, end)):
            yield run


def _pieces(text: str, sequence: _Sequence, run: Word) -> Iterator[Word]:
    """Yield each token of an unspaced run as a word; tokens that share a character are one word."""
    first = run.first
    while first < run.last:
        start, end = _trimmed(text, sequence.offsets[first])
        last = first + 1
        while last < run.last and _trimmed(text, sequence.offsets[last])[0] < end:
            end = max(end, _trimmed(text, sequence.offsets[last])[1])
            last += 1
        if run.start <= start < end <= run.end:
            yield Word(run.text, start, end, first, last, text[start:end])
        first = last


def _within(text: str, span: tuple[int, int], word: tuple[int, int]) -> bool:
    if span[0] < word[0] or span[1] > word[1]:
        span = _trimmed(text, span)
    return span[0] >= word[0] and span[1] <= word[1]


def _trimmed(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return a token's span without surrounding space, which some tokenizers include."""
    start, end = span
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
