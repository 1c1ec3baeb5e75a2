"""Replaceable words of a text for every script and tokenizer, and whole words of a vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from schemas.core.errors import ConfigError, DataError
from schemas.data.augmentation import Augmentation
from stages.augmentation.candidates import CandidateFinder
from stages.augmentation.stop_words import ENGLISH, stop_words
from stages.augmentation.vocabulary import GLUED, SPACED, UNSPACED, Lexicon, highest
from stages.augmentation.words import find_words
from stages.text.scripts import is_letters, is_unspaced
from tests.support.augmenting import word_teacher
from tests.support.builders import tiny_tokenizer
from tests.support.pieces import SPECIAL, TOKENIZERS, byte_pairs, word_pieces


def words_of(
    text: str, tokenizer: PreTrainedTokenizerFast, max_length: int = 200, kept: tuple[str, ...] = ()
) -> list[str]:
    result = find_words([text], tokenizer, max_length=max_length, kept=kept)
    for word in result.words:
        assert text[word.start : word.end] == word.written
        ids = result.tokens.ids[word.first : word.last].tolist()
        if tokenizer.unk_token_id not in ids and text.isascii():
            assert tokenizer.decode(ids).replace(" ", "") in (word.written, word.written.lower())
    return [word.written for word in result.words]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_runs_of_letters_for_every_tokenizer(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    text = "The good film (a Film), isn't 3D or x_y\tnaïve café cafe\u0301!"
    words = words_of(text, tokenizer, kept=("the", "or"))
    assert words == ["good", "film", "a", "Film", "isn", "t", "naïve", "café", "cafe\u0301"]
    hindi = "हिन्दी सिनेमा १२"
    if name != "##":  # which knows none of these letters, and drops their marks
        assert words_of(hindi, tokenizer) == ["हिन्दी", "सिनेमा"]
    assert words_of("", tokenizer) == words_of("… 12,5 %", tokenizer) == []


@pytest.mark.parametrize("name", ["▁", "##"])
def test_scripts_without_spaces_are_split_as_the_tokenizer_splits_them(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    words = words_of("我很喜欢这部电影，真好看。film电影3", tokenizer)
    if name == "##":
        assert words == [*"我很喜欢这部电影真好看", "film", *"电影"]
    else:
        assert {"喜欢", "电影", "好看", "film"} <= set(words)
        assert "".join(words) == "我很喜欢这部电影真好看film电影"
    assert words_of("电影", tokenizer, kept=("电", "影", "电影")) == []


def test_words_beyond_or_at_the_truncation_are_left_out() -> None:
    tokenizer = tiny_tokenizer()
    assert words_of("good film plot", tokenizer, max_length=5) == ["good", "film", "plot"]
    assert words_of("good film plot red", tokenizer, max_length=5) == ["good", "film"]
    assert words_of("good filmqq", tokenizer, max_length=5) == ["good"]


def test_letters_and_scripts_are_recognised() -> None:
    for word in ("film", "Ärger", "हिन्दी", "cafe\u0301", "电影", "слово"):
        assert is_letters(word)
    for word in ("", "3D", "x_y", "isn't", "\u0301", "½", "Ⅷ", "a b"):
        assert not is_letters(word)
    assert [is_unspaced(word) for word in ("电影", "かな", "ไทย", "film", "한국어")] == [True, True, True, False, False]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_whole_words_of_a_vocabulary_are_recognised(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    lexicon = Lexicon.of(tokenizer)
    words = {
        kind: {lexicon.words[index] for index in np.flatnonzero(lexicon.kinds[kind])}
        for kind in (SPACED, GLUED, UNSPACED)
    }
    assert {"good", "film"} <= words[SPACED]
    assert words[GLUED] <= words[SPACED]
    assert all(map(is_letters, words[SPACED] | words[UNSPACED]))
    assert all(map(is_unspaced, words[UNSPACED]))
    assert not any(map(is_unspaced, words[SPACED]))
    assert not words[SPACED] & set(SPECIAL) | {"PAD", "MASK"} & words[SPACED]
    for number in np.flatnonzero(lexicon.kinds[SPACED]):
        ids = tokenizer("film " + lexicon.words[number], add_special_tokens=False)["input_ids"]
        assert ids[-1] == number
    if name == "##":
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        assert words[SPACED] == {*letters, "film", "good", "naive", "cafe"}
        assert words[UNSPACED] == set("我很喜欢这部电影真好看")
        assert "##影" in tokenizer.get_vocab()


def test_best_entries_are_distinct_whole_words_other_than_the_word_itself() -> None:
    words = ["film", "Film", "good", "GOOD", "", "red", "电"]
    spaced = np.array([True, True, True, True, False, True, False])
    lexicon = Lexicon(words, np.stack([spaced, spaced, ~spaced & (np.array(words) != "")]))
    scores = torch.tensor([[9.0, 8, 7, 6, 99, 5, 98, 99], [1.0, 2, 3, 4, 5, 6, 7, 8]])
    forms = np.array([lexicon.number_of("FILM"), lexicon.number_of("unheard")])

    def best(kind: int, number: int, but: int = -1) -> list[list[int]]:
        return lexicon.best(scores.clone(), kind, number, but_forms=forms, but_entries=np.array([-1, but])).tolist()

    assert best(SPACED, 3) == [[2, 5, -1], [5, 3, 1]]
    assert best(SPACED, 1) == [[2], [5]]
    assert best(SPACED, 3, but=5) == [[2, 5, -1], [3, 1, -1]]
    assert best(UNSPACED, 2) == [[6, -1], [6, -1]]


@pytest.mark.parametrize(("width", "number"), [(1, 1), (50, 3), (640, 9), (641, 10), (2000, 15)])
def test_highest_equals_topk(width: int, number: int) -> None:
    scores = torch.randn(20, width)
    scores[3] = -torch.inf
    scores[4, 1:] = -torch.inf
    values, targets = highest(scores, number)
    wanted = scores.topk(number)
    assert torch.equal(values, wanted.values)
    assert torch.equal(scores.gather(1, targets), values)
    full = torch.isfinite(values).all(1)
    assert torch.equal(targets[full], wanted.indices[full])


def test_chinese_is_augmented_character_by_character(tmp_path: Path) -> None:
    folder = word_teacher(tmp_path / "words", word_pieces())
    config = Augmentation(candidates=4)
    (targets,) = CandidateFinder(config, folder, precision="fp32").find(["我很喜欢film 3D。"])
    assert [(target.start, target.end) for target in targets] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 8)]
    for target in targets[:4]:
        assert len(target.candidates) == 4
        assert set(target.candidates) < set("我很喜欢这部电影真好看")
        assert "我很喜欢film"[target.start] not in target.candidates
    assert all(word.isascii() for word in targets[4].candidates)


def test_word_without_a_space_before_it_gets_entries_without_one(tmp_path: Path) -> None:
    folder = word_teacher(tmp_path / "words", byte_pairs())
    finder = CandidateFinder(Augmentation(candidates=4), folder, precision="fp32")
    sequences = find_words(["film film (film"], finder.tokenizer, max_length=20, kept=())
    assert finder.predictor is not None
    result = finder.predictor.likeliest(sequences, sequences.words, 4)
    kinds = finder.lexicon.kinds
    assert [len(ids) for ids in result] == [4, 4, 4]
    for ids, kind in zip(result, (GLUED, SPACED, GLUED), strict=True):
        assert kinds[kind][ids].all()
    assert not kinds[SPACED][result[0]].all()


def test_stop_words_are_english_or_a_list_or_a_file(tmp_path: Path) -> None:
    def stop_words_of(value: object) -> frozenset[str]:
        return stop_words(Augmentation.model_validate({"stop_words": value}))

    assert stop_words_of("english") is ENGLISH
    assert {"the", "not", "wasn", "t", "n", "herself"} <= ENGLISH
    assert not {"good", "film", "interest", "serious"} & ENGLISH
    assert stop_words_of(["Der", "die"]) == {"der", "die"}
    assert stop_words_of([]) == frozenset()
    file = tmp_path / "words.txt"
    file.write_text("\ufeffDer\r\n\r\n die \r\n", encoding="utf-8")
    assert stop_words_of(str(file)) == {"der", "die"}
    file.write_text("der\ndie das\n")
    with pytest.raises(DataError, match=r"stop_words: .*words.txt: line 2 holds 2 words; write"):
        stop_words_of(str(file))
    file.write_bytes(b"f\xfcr\n")
    with pytest.raises(DataError, match=r"words.txt is not UTF-8 \(byte 1\)"):
        stop_words_of(str(file))
    with pytest.raises(DataError, match=r"cannot be read .*; give english, a list of words, or a"):
        stop_words_of(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ConfigError, match=r"augmentation.stop_words: "):
        stop_words_of("a\0b")
