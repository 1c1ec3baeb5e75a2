"""Words as sub-words and answers in windows, compared with plain loops over characters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.core.kinds import QuestionAnswering, TokenClassification
from stages.data.batching.payloads import NO_WORD
from stages.data.batching.spans import best_span, decode_answers
from stages.data.batching.words import words_of_tokens
from stages.kinds.registry import kind_of
from stages.kinds.spans import answer_tokens
from tests.support.builders import WORDS, tiny_tokenizer
from tests.support.pieces import TOKENIZERS

TOKENIZER = tiny_tokenizer()
SENTENCES = st.lists(st.sampled_from([*WORDS, "xyz", "qq", "Zz"]), min_size=1, max_size=12)


def tokens_of(columns: dict[str, Any], row: int) -> list[str]:
    return list(TOKENIZER.convert_ids_to_tokens(columns["input_ids"][row]))


@settings(max_examples=40, deadline=None)
@given(SENTENCES)
def test_only_the_first_piece_of_a_word_carries_its_tag(words: list[str]) -> None:
    encode = kind_of(TokenClassification()).encoder(TOKENIZER, 64, is_pair=False)
    tags = list(range(len(words)))
    columns = encode({"words": [words], "label": [tags]}, [0])
    first_tags, rebuilt = [], []
    for token, tag in zip(tokens_of(columns, 0), columns["tags"][0], strict=True):
        if tag != NO_WORD:
            assert not token.startswith("##")
            first_tags.append(tag)
        if token not in ("[CLS]", "[SEP]"):
            if token.startswith("##"):
                rebuilt[-1] += token[2:]
            else:
                rebuilt.append(token)
    assert first_tags == tags
    assert rebuilt == [word.lower() for word in words]
    words_said = np.array(columns["spans"][0]).reshape(-1, 2)
    pieces = np.flatnonzero(words_said[:, 0] >= 0)
    assert set(words_said[pieces, 0].tolist()) == set(tags)
    assert words_said[[0, -1]].tolist() == [[-1, -1], [-1, -1]]


def test_all_pieces_carry_the_tag_if_configured() -> None:
    problem = TokenClassification(label_pieces="all")
    encode = kind_of(problem).encoder(TOKENIZER, 64, is_pair=False)
    columns = encode({"words": [["xyz", "film"]], "label": [[3, 5]]}, [0])
    assert tokens_of(columns, 0) == ["[CLS]", "x", "##y", "##z", "film", "[SEP]"]
    assert columns["tags"] == [[NO_WORD, 3, 3, 3, 5, NO_WORD]]


def test_a_token_starting_at_the_space_before_a_word_belongs_to_the_word() -> None:
    offsets = np.array([[0, 0], [0, 2], [2, 4], [4, 5], [5, 6], [5, 8], [0, 0]])
    # "ab c de": ab, " c", a space alone, "d", " de" as some tokenizers count
    assert words_of_tokens(["ab", "c", "de"], offsets).tolist() == [-1, 0, 1, -1, 2, 2, -1]


CONTEXTS = st.lists(st.sampled_from(["film", "plot", "xyz", "red", "very", "qq"]), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(CONTEXTS, st.data())
def test_every_window_that_contains_the_answer_is_labelled_with_its_span(words: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)))
    context = " ".join(words)
    start = sum(len(word) + 1 for word in words[:first])
    answer = " ".join(words[first : last + 1])
    encode = kind_of(QuestionAnswering(stride=5, max_question_tokens=4)).encoder(TOKENIZER, 24, is_pair=True)
    rows = {"text": ["is it red"], "text_pair": [context], "answers": [[answer]], "starts": [[start]]}
    columns = encode(rows, [7])
    assert set(columns["example"]) == {7}
    covered = np.zeros(len(context), bool)
    for ids, label, flat in zip(columns["input_ids"], columns["label"], columns["spans"], strict=True):
        assert len(ids) <= 24
        spans = np.array(flat).reshape(-1, 2)
        context_tokens = spans[spans[:, 1] > spans[:, 0]]
        for begin, end in context_tokens:
            covered[begin:end] = True
        holds = context_tokens[0, 0] <= start and context_tokens[-1, 1] >= start + len(answer)
        if holds:
            assert context[spans[label[0], 0] : spans[label[1], 1]] == answer
        else:
            assert label == [0, 0]
    assert covered.sum() == sum(len(word) for word in words), "every word is in a window"


def test_an_unanswerable_question_is_labelled_with_the_first_token() -> None:
    encode = kind_of(QuestionAnswering(stride=2)).encoder(TOKENIZER, 24, is_pair=True)
    rows = {"text": ["is it"], "text_pair": ["the film"], "answers": [[]], "starts": [[]]}
    assert encode(rows, [0])["label"] == [[0, 0]]


def test_a_long_question_is_truncated_to_leave_room_for_the_context() -> None:
    encode = kind_of(QuestionAnswering(stride=2, max_question_tokens=3)).encoder(TOKENIZER, 12, is_pair=True)
    rows = {"text": ["is it very very very good"], "text_pair": ["the film"], "answers": [[]], "starts": [[]]}
    assert tokens_of(encode(rows, [0]), 0) == ["[CLS]", "is", "it", "very", "[SEP]", "the", "film", "[SEP]"]


def test_an_answer_ending_inside_a_token_includes_the_whole_token() -> None:
    spans = np.array([[-1, -1], [0, 4], [5, 9], [9, 12], [-1, -1]])
    context = "four five 12 x"
    assert answer_tokens(spans, (6, 10), context) == [2, 3]
    assert answer_tokens(spans, (0, 12), context) == [1, 3]
    assert answer_tokens(spans, (0, 14), context) == [0, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10_000))
def test_the_best_span_equals_an_exhaustive_search(tokens: int, most: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(tokens + 2, 2)).astype(np.float32)
    spans = np.full((tokens + 2, 2), -1)
    spans[1:-1] = [[2 * index, 2 * index + 1] for index in range(tokens)]
    best = max(
        (
            (float(logits[i, 0].astype(np.float64) + logits[j, 1].astype(np.float64)), i, j)
            for i in range(1, tokens + 1)
            for j in range(i, min(i + most, tokens + 1))
        ),
        key=lambda span: span[0],
    )
    best_answer = best_span(logits, spans, max_tokens=most)
    assert best_answer is not None
    assert best_answer[0] == pytest.approx(best[0])
    assert best_answer[1] == (spans[best[1], 0], spans[best[2], 1])


def test_the_best_window_answers_unless_no_answer_scores_higher() -> None:
    spans = [np.array([[-1, -1], [0, 3], [4, 7]]), np.array([[-1, -1], [8, 11], [12, 15]])]
    logits = [np.array([[0, 0], [1, 1], [0, 0]], np.float32), np.array([[0, 0], [0, 0], [3, 3]], np.float32)]
    examples, contexts = np.array([0, 0]), ["one two red sea"]

    def answer(*, silence: float, allowed: bool) -> list[str]:
        silent = [window.copy() for window in logits]
        silent[1][0] = silence
        silent[0][0] = 100  # the lowest score of the windows counts
        return decode_answers(silent, spans, examples, contexts, max_tokens=2, no_answer=allowed)

    assert answer(silence=2.9, allowed=True) == ["sea"]
    assert answer(silence=3.1, allowed=True) == [""]
    assert answer(silence=3.1, allowed=False) == ["sea"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        ("the good ", "cafe\u0301", " is great"),
        ("the good ", "cafe\u0301", ""),
        ("a film, ", "ne\u0301e", ". good"),
        ("कि ", "हिन्दी", " सिनेमा"),
        ("good ", "👩\u200d🚀", " film"),
        ("great ", "❤\ufe0f", ""),
        ("很喜欢", "电影", "好看"),
        ("", "3D", " film"),
        ("a ", "naïve", "\u200b"),
        ("was ", "warm ", ""),
    ],
)
def test_correct_positions_decode_to_the_correct_answer(kind: str, before: str, answer: str, after: str) -> None:
    """What a model that learnt every label answers: with it, exact match can be 1."""
    tokenizer = TOKENIZERS[kind]()
    encode = kind_of(QuestionAnswering(stride=2)).encoder(tokenizer, 100, is_pair=True)
    context = before + answer + after
    columns = encode({"text": ["a"], "text_pair": [context], "answers": [[answer]], "starts": [[len(before)]]}, [0])
    (label,) = columns["label"]
    assert label != [0, 0]
    logits = np.zeros((len(columns["input_ids"][0]), 2), np.float32)
    logits[label[0], 0] = logits[label[1], 1] = 1
    spans = np.array(columns["spans"][0]).reshape(-1, 2)
    answers = decode_answers([logits], [spans], np.array([0]), [context], max_tokens=100, no_answer=True)
    assert answers == [answer.strip()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    "words", [["a", "good  film", "is"], ["good ", "film"], [" good", "a  ", "film"], ["a", "", "film"]]
)
def test_a_word_containing_blanks_has_one_tag(kind: str, words: list[str]) -> None:
    encode = kind_of(TokenClassification()).encoder(TOKENIZERS[kind](), 64, is_pair=False)
    columns = encode({"words": [words], "label": [list(range(len(words)))]}, [0])
    tags = [tag for tag in columns["tags"][0] if tag != NO_WORD]
    assert tags == [number for number, word in enumerate(words) if word.strip()]
