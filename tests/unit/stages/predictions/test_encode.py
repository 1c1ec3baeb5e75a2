"""Rows get the ids that training gave them, by `tokenizers` alone and the file that is saved with a student."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from schemas.core.kinds import Classification, MultipleChoice, QuestionAnswering, TaskKind, TokenClassification
from schemas.results.export import TaskForm
from stages.kinds.registry import kind_of
from stages.predictions.encode import Encoder
from stages.predictions.rows import Row
from stages.saved_model import _as_trained
from tests.support.pieces import TOKENIZERS

LONG = "the good film was a (great) film, " * 4
TEXTS = ["the good film", "我很喜欢这部电影，真好看。", LONG, "naïve café 3D हिन्दी सिनेमा", "Zz  two  blanks ", "!"]
PAIRS = ["good", LONG, "3D", "我 很 喜欢", "a", "great"]
WORDS = [text.split() for text in TEXTS]
MAX_LENGTH = 16


def saved(name: str, folder: Path) -> tuple[Any, Tokenizer]:
    """Return a tokenizer as training has it, and as a reader of the student's folder has it."""
    tokenizer = TOKENIZERS[name]()
    _as_trained(tokenizer, MAX_LENGTH).save_pretrained(folder)
    return tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("problem", "batch", "rows"),
    [
        (Classification(), {"text": TEXTS}, [Row(1, text) for text in TEXTS]),
        (
            Classification(),
            {"text": TEXTS, "text_pair": PAIRS},
            [Row(1, text, pair) for text, pair in zip(TEXTS, PAIRS, strict=True)],
        ),
        (
            MultipleChoice(),
            {"text": TEXTS, "text_pair": PAIRS, "choices": [["good", LONG]] * len(TEXTS), "label": [0] * len(TEXTS)},
            [Row(1, text, pair, choices=("good", LONG)) for text, pair in zip(TEXTS, PAIRS, strict=True)],
        ),
        (
            QuestionAnswering(stride=2, max_question_tokens=4),
            {"text": TEXTS, "text_pair": PAIRS, "answers": [[]] * len(TEXTS), "starts": [[]] * len(TEXTS)},
            [Row(1, text, pair) for text, pair in zip(TEXTS, PAIRS, strict=True)],
        ),
        (
            TokenClassification(),
            {"words": WORDS, "label": [[0] * len(words) for words in WORDS]},
            [Row(1, " ".join(words), words=tuple(words)) for words in WORDS],
        ),
    ],
    ids=["texts", "pairs", "choices", "questions", "words"],
)
def test_ids_are_those_of_training(
    name: str, problem: TaskKind, batch: dict[str, Any], rows: list[Row], tmp_path: Path
) -> None:
    tokenizer, alone = saved(name, tmp_path)
    kind = kind_of(problem)
    numbers = [*range(len(rows))]
    expected = kind.encoder(tokenizer, MAX_LENGTH, is_pair="text_pair" in batch)(dict(batch), numbers)
    sequences = Encoder(alone, TaskForm(problem=problem, text="text"), MAX_LENGTH).encode(rows)
    assert [encoding.ids for encoding in sequences.encodings] == expected["input_ids"]
    if "token_type_ids" in expected:
        assert [encoding.type_ids for encoding in sequences.encodings] == expected["token_type_ids"]
    assert sequences.row_of == expected.get("example", numbers)
    is_cut = dict.fromkeys(numbers, False)
    for row, cut in zip(sequences.row_of, expected["cut"], strict=True):
        is_cut[row] = is_cut[row] or cut
    assert sequences.cut == {row for row, cut in is_cut.items() if cut}
    if isinstance(problem, TokenClassification):
        assert [word_of.tolist() for word_of in sequences.word_of] == [spans[::2] for spans in expected["spans"]]
        for words, spans, row in zip(WORDS, sequences.words, rows, strict=True):
            assert [(row.text or "")[start:end] for start, end in spans] == words
    if isinstance(problem, QuestionAnswering):
        assert [span.ravel().tolist() for span in sequences.spans] == expected["spans"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_of_a_raw_text_are_parts_of_it_that_do_not_overlap(name: str, tmp_path: Path) -> None:
    _, alone = saved(name, tmp_path)
    encoder = Encoder(alone, TaskForm(problem=TokenClassification(), text="text"), 512)
    sequences = encoder.encode([Row(1, text) for text in TEXTS])
    for text, words, word_of in zip(TEXTS, sequences.words, sequences.word_of, strict=True):
        assert "".join(text[start:end] for start, end in words) == "".join(text.split())
        assert all(first[1] <= second[0] for first, second in pairwise(words))
        assert sorted({*word_of.tolist()} - {-1}) == [*range(len(words))]
