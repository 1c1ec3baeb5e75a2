"""Rows as token ids, by the library `tokenizers` alone; the same ids as `stages.kinds` makes for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from schemas.core.kinds import MultipleChoice, QuestionAnswering, TokenClassification
from schemas.results.export import TaskForm
from stages.data.batching.words import words_of_tokens
from stages.predictions.rows import Row

Numbers = NDArray[np.int64]


@dataclass
class Sequences:
    """Sequences of some rows: one each, one for each choice, or one for each window of a context."""

    encodings: list[Encoding] = field(default_factory=list)
    row_of: list[int] = field(default_factory=list)
    """Position of the row that each sequence belongs to; ascending."""
    spans: list[NDArray[np.int32]] = field(default_factory=list)
    """(tokens, 2) characters of the context that each token of a window covers; -1 outside it."""
    words: list[list[tuple[int, int]]] = field(default_factory=list)
    """Of each row, where tags are asked for: first character of each word, and the character after its last."""
    word_of: list[Numbers] = field(default_factory=list)
    """(tokens,) the word that each token is a piece of; -1 for none."""
    cut: set[int] = field(default_factory=set)
    """Rows of which part was left out."""

    @property
    def lengths(self) -> Numbers:
        """(sequences,) tokens of each."""
        return np.array([len(encoding.ids) for encoding in self.encodings], np.int64)


@dataclass(frozen=True)
class Encoder:
    """Encodes rows of a task."""

    tokenizer: Tokenizer
    form: TaskForm
    max_length: int

    def encode(self, rows: Sequence[Row]) -> Sequences:
        """Return the sequences of rows that have all their texts."""
        encoders: dict[type, Callable[[Sequence[Row]], Sequences]] = {
            TokenClassification: self._tagged,
            QuestionAnswering: self._windows,
            MultipleChoice: self._choices,
        }
        return encoders.get(type(self.form.problem), self._texts)(rows)

    def _truncate(self, max_length: int, strategy: str = "longest_first", stride: int = 0) -> None:
        """Have the next texts cut, from the end that the tokenizer's settings name."""
        direction = (self.tokenizer.truncation or {}).get("direction", "right")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length, stride=stride, strategy=strategy, direction=direction)

    def _texts(self, rows: Sequence[Row]) -> Sequences:
        self._truncate(self.max_length)
        texts = [row.text if row.pair is None else (row.text, row.pair) for row in rows]
        encodings = self.tokenizer.encode_batch(texts)
        return Sequences(encodings, list(range(len(rows))), cut=_cut(encodings, range(len(rows))))

    def _choices(self, rows: Sequence[Row]) -> Sequences:
        """A sequence per choice: the passage, then the question, if any, and the choice."""
        self._truncate(self.max_length)
        texts, row_of = [], []
        for position, row in enumerate(rows):
            texts += [(row.text, f"{row.pair or ''} {choice}".lstrip()) for choice in row.choices]
            row_of += [position] * len(row.choices)
        encodings = self.tokenizer.encode_batch(texts)
        return Sequences(encodings, row_of, cut=_cut(encodings, row_of))

    def _tagged(self, rows: Sequence[Row]) -> Sequences:
        sequences = self._texts(rows)
        for row, encoding in zip(rows, sequences.encodings, strict=True):
            offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            if row.words is not None:
                words, word_of = _given_words(row.words), words_of_tokens([*row.words], offsets)
            else:
                words, word_of = _words_of_text(row.text or "", encoding, offsets)
            sequences.words.append(words)
            sequences.word_of.append(word_of)
        return sequences

    def _windows(self, rows: Sequence[Row]) -> Sequences:
        """Windows of contexts that share `stride` tokens, each after the whole question."""
        assert isinstance(self.form.problem, QuestionAnswering)
        questions = self._cut_questions(rows, self.form.problem.max_question_tokens)
        self._truncate(self.max_length, "only_second", self.form.problem.stride)
        contexts = [row.pair for row in rows]
        sequences = Sequences()
        encoded = self.tokenizer.encode_batch([*zip(questions, contexts, strict=True)])
        for position, encoding in enumerate(encoded):
            if len(questions[position]) < len(rows[position].text or ""):
                sequences.cut.add(position)
            for window in (encoding, *encoding.overflowing):
                span = np.array(window.offsets, np.int32).reshape(-1, 2)
                span[np.array([part != 1 for part in window.sequence_ids], bool)] = -1
                sequences.encodings.append(window)
                sequences.row_of.append(position)
                sequences.spans.append(span)
        return sequences

    def _cut_questions(self, rows: Sequence[Row], most: int) -> list[str]:
        self._truncate(most)
        questions = [row.text or "" for row in rows]
        encoded = self.tokenizer.encode_batch(questions, add_special_tokens=False)
        return [
            question[: encoding.offsets[-1][1]] if len(encoding.ids) == most else question
            for question, encoding in zip(questions, encoded, strict=True)
        ]


def _cut(encodings: Sequence[Encoding], row_of: Sequence[int]) -> set[int]:
    return {row for row, encoding in zip(row_of, encodings, strict=True) if encoding.overflowing}


def _given_words(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return the characters of each word in the text that they form with single spaces between them."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]


def _words_of_text(text: str, encoding: Encoding, offsets: Numbers) -> tuple[list[tuple[int, int]], Numbers]:
    """Return the words that the tokenizer finds in a text, and the word of each token."""
    words: list[tuple[int, int]] = []
    number_of: dict[int, int] = {}
    word_of = np.full(len(offsets), -1)
    for token, (word, (start, end)) in enumerate(zip(encoding.word_ids, offsets.tolist(), strict=True)):
        while start < end and text[start].isspace():  # some tokenizers count the space before a word
            start += 1
        if word is None or end <= start:
            continue
        number = number_of.setdefault(word, len(words))
        if number == len(words):
            words.append((start, end))
        words[number] = (min(words[number][0], start), max(words[number][1], end))
        word_of[token] = number
    return words, word_of
