"""How rows of each kind of task become token ids, with what their tokens stand for.

An encoding is columns of equal length: `input_ids` and perhaps `token_type_ids`, lists; `label`, by the kind; `tags`, a
number for each token; `spans`, two numbers for each token, flat; `example`, the row that a window or a choice is of;
`cut`, whether something of a text was left out.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerFast

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from stages.data.batching.spans import covered_part
from stages.data.batching.tokens import NO_WORD

Columns = dict[str, list[Any]]
Encode = Callable[[Columns, list[int]], Columns]
"""Columns of some rows, and the rows' numbers, to those of their sequences."""


def encoder_of(problem: TaskKind, tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
    """How rows of a kind are tokenised.

    Args:
        problem: the kind.
        tokenizer: the teacher's.
        max_length: longest sequence.
        is_pair: whether rows have two texts.
    """
    match problem:
        case Classification() | MultiLabel() | Regression() | Embedding():
            return _texts(tokenizer, max_length, is_pair=is_pair)
        case MultipleChoice():
            return _choices(tokenizer, max_length)
        case TokenClassification():
            return _words(problem, tokenizer, max_length)
        case QuestionAnswering():
            return _windows(problem, tokenizer, max_length)
        case _:
            assert_never(problem)


def _ids(encoded: BatchEncoding) -> Columns:
    return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}


def _cut(encoded: BatchEncoding) -> list[bool]:
    """Whether something of each text was left out."""
    return [bool(encoding.overflowing) for encoding in encoded.encodings or ()]


def _texts(tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
    def encode(batch: Columns, _rows: list[int]) -> Columns:
        second = batch["text_pair"] if is_pair else None
        columns = _pairs(tokenizer, max_length, batch["text"], second)
        return columns | ({"label": batch["label"]} if "label" in batch else {})

    return encode


def _pairs(tokenizer: PreTrainedTokenizerFast, max_length: int, first: list[str], second: list[str] | None) -> Columns:
    """Texts or pairs of texts, of which the longer one is cut."""
    encoded = tokenizer(
        first,
        second,
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
    return _ids(encoded) | {"cut": _cut(encoded)}


def _choices(tokenizer: PreTrainedTokenizerFast, max_length: int) -> Encode:
    """A sequence for each choice: the passage, then the question, if there is one, and the choice.

    The layout of transformers' multiple-choice heads for SWAG and RACE. `label` is 1 for the right choice, else 0.
    """

    def encode(batch: Columns, rows: list[int]) -> Columns:
        passages, answers, labels, examples = [], [], [], []
        questions = batch.get("text_pair") or [""] * len(rows)
        for place, choices in enumerate(batch["choices"]):
            passages += [batch["text"][place]] * len(choices)
            answers += [f"{questions[place]} {choice}".lstrip() for choice in choices]
            labels += [int(number == batch["label"][place]) for number in range(len(choices))]
            examples += [rows[place]] * len(choices)
        columns = _pairs(tokenizer, max_length, passages, answers)
        return columns | {"label": labels, "example": examples}

    return encode


def _words(problem: TokenClassification, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Encode:
    """Words joined by spaces, so that a text is tokenised as it will be when there are no words, only text."""

    def encode(batch: Columns, _rows: list[int]) -> Columns:
        encoded = tokenizer(
            [" ".join(words) for words in batch["words"]],
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        tags, spans = [], []
        for row, (words, labels) in enumerate(zip(batch["words"], batch["label"], strict=True)):
            word_of = words_of_tokens(words, np.array(encoded["offset_mapping"][row]).reshape(-1, 2))
            stands = word_of >= 0 if problem.label_pieces == "all" else first_pieces(word_of)
            tag = np.full(len(word_of), NO_WORD)
            tag[stands] = np.asarray(labels)[word_of[stands]]
            tags.append(tag.tolist())
            spans.append(np.stack([word_of, word_of + (word_of >= 0)], axis=1).ravel().tolist())
        return _ids(encoded) | {"cut": _cut(encoded), "tags": tags, "spans": spans}

    return encode


def words_of_tokens(words: list[str], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(tokens,) which word each token is a piece of, -1 for special tokens.

    Args:
        words: of one row; joined by single spaces they are the text.
        offsets: (tokens, 2) characters of the text that each token covers; some tokenizers count the space before.
    """
    ends = np.array([*accumulate(len(word) + 1 for word in words)])  # past the space after each
    starts = ends - np.array([len(word) + 1 for word in words])
    first, past = offsets[:, 0], offsets[:, 1]
    # A token that begins at the space before a word is a piece of that word.
    word = np.searchsorted(ends, first + (np.isin(first, ends - 1) & (past > first)), side="right")
    word = np.minimum(word, len(words) - 1)
    covers = (past > first) & (past > starts[word])
    return np.where(covers, word, -1)


def first_pieces(word_of: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """(tokens,) True for the first piece of each word.

    A word with a blank inside may come in two runs of pieces, with a token between that covers no character.

    Args:
        word_of: (tokens,) which word each token is a piece of, ascending, -1 for none.
    """
    before = np.maximum.accumulate(np.concatenate([[-1], word_of[:-1]]))
    return np.asarray(word_of > before)


def _windows(problem: QuestionAnswering, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Encode:
    """The context cut into windows that overlap by `stride` tokens, each after the whole question.

    Devlin et al. 2019 (section 4.2): a window that does not hold the whole answer has none, place 0.
    """

    def encode(batch: Columns, rows: list[int]) -> Columns:
        questions = _cut_questions(batch["text"], tokenizer, problem.max_question_tokens)
        encoded = tokenizer(
            questions,
            batch["text_pair"],
            truncation="only_second",
            max_length=max_length,
            stride=problem.stride,
            padding=False,
            return_attention_mask=False,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        labels, spans, examples, cut = [], [], [], []
        for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
            span = np.array(encoded["offset_mapping"][window])
            in_context = np.array([part == 1 for part in encoded.sequence_ids(window)])
            span[~in_context] = -1
            answers, starts = batch["answers"][row], batch["starts"][row]
            answer = (starts[0], starts[0] + len(answers[0])) if answers else None
            labels.append(answer_place(span, answer, batch["text_pair"][row]))
            spans.append(span.ravel().tolist())
            examples.append(rows[row])
            cut.append(len(questions[row]) < len(batch["text"][row]))
        found = {"label": labels, "spans": spans, "example": examples, "cut": cut}
        return _ids(encoded) | found

    return encode


def _cut_questions(questions: list[str], tokenizer: PreTrainedTokenizerFast, most: int) -> list[str]:
    encoded = tokenizer(
        questions,
        add_special_tokens=False,
        truncation=True,
        max_length=most,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ends = [offsets[-1][1] if offsets else 0 for offsets in encoded["offset_mapping"]]
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return [
        question[:end] if length == most else question
        for question, end, length in zip(questions, ends, lengths, strict=True)
    ]


def answer_place(span: NDArray[np.int64], answer: tuple[int, int] | None, context_text: str) -> list[int]:
    """First and last token of an answer; twice 0 where a window does not hold all of it, or there is none.

    Args:
        span: (tokens, 2) characters of the context, -1 outside it.
        answer: its first character and the one past its last.
        context_text: the context. A tokenizer may cover neither blanks nor accents that stand alone: a window that ends
            before those of an answer's end holds it all the same.
    """
    context = np.flatnonzero(span[:, 1] > span[:, 0])
    if answer is None or not len(context):
        return [0, 0]
    start, end = answer
    first_needed, past_needed = covered_part(context_text, start, end)
    if span[context[0], 0] > first_needed or span[context[-1], 1] < past_needed:
        return [0, 0]
    first = context[np.searchsorted(span[context, 1], start, side="right")]
    last = context[np.searchsorted(span[context, 0], end, side="left") - 1]
    return [int(first), int(last)]
