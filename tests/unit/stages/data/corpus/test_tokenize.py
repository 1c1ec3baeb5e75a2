"""Sequences of a corpus for every cut, compared token for token with the tokenizer's output."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from pydantic import TypeAdapter
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from schemas.core.errors import DataError
from schemas.core.training import BatchSize
from schemas.data.corpus import AnyCut, Cut, GeneralCorpus
from stages.data.batching.batches import Batches
from stages.data.batching.mixture import Mixture
from stages.data.batching.tokens import Tokens
from stages.data.corpus.prepare import CorpusRows, load_corpus
from stages.data.corpus.tokenize import corpus_summary, tokenize_corpus
from stages.text.sentences import split_sentences
from tests.support.builders import WORDS, tiny_tokenizer
from tests.support.toys import write_rows


def roberta_like() -> PreTrainedTokenizerFast:
    """A tokenizer with two separators between the texts of a pair, and without token types."""
    tokenizer = tiny_tokenizer()
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.RobertaProcessing(("[SEP]", sep), ("[CLS]", cls))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"]
    )


def bare() -> PreTrainedTokenizerFast:
    """A tokenizer without special tokens around a text."""
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.Sequence([])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids"]
    )


def story(number: int, sentences: int) -> str:
    """Return sentences of the tiny vocabulary, of two to twenty words."""
    draw = np.random.default_rng(number)
    lines = [" ".join(draw.choice(WORDS, draw.integers(2, 20))) for _ in range(sentences)]
    return " ".join(sentence.capitalize() + "." for sentence in lines)


def corpus_rows(texts: list[str], cut: Any = "rows", **fields: Any) -> CorpusRows:
    begins = fields.pop("begins", [True] * len(texts))
    train = Dataset.from_dict({"text": texts, "begins": begins})
    chosen: AnyCut = TypeAdapter(Cut).validate_python(cut)
    return CorpusRows(train, train.select(range(1)), "digest", cut=chosen, **fields)


def ids_of(tokens: Tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.ids, tokens.starts[1:])]


def types_of(tokens: Tokens) -> list[list[int]]:
    assert tokens.types is not None
    return [part.tolist() for part in np.split(tokens.types, tokens.starts[1:])]


TEXTS = [story(number, 1 + number % 4) for number in range(30)] + ["\u200b", "a plot", "[SEP] film"]


@pytest.mark.parametrize("make", [tiny_tokenizer, roberta_like, bare])
@pytest.mark.parametrize("max_length", [9, 64])
def test_long_rows_are_split_as_the_tokenizer_splits_them(tmp_path: Path, make: Any, max_length: int) -> None:
    tokenizer = make()
    # Settings left in the tokenizer by another call have no effect.
    tokenizer(TEXTS[:3], truncation=True, max_length=4, padding=True)
    train, _ = tokenize_corpus(corpus_rows(TEXTS), tokenizer, max_length=max_length, cache=tmp_path)
    expected = make()(TEXTS, truncation=True, max_length=max_length, return_overflowing_tokens=True)
    special = tokenizer.num_special_tokens_to_add()
    kept = [index for index, ids in enumerate(expected["input_ids"]) if len(ids) > special]
    assert ids_of(train) == [expected["input_ids"][index] for index in kept]
    if "token_type_ids" in tokenizer.model_input_names:
        assert types_of(train) == [expected["token_type_ids"][index] for index in kept]
    else:
        assert train.types is None
    assert isinstance(train.ids, np.memmap)


def test_each_sentence_is_a_sequence(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    train, _ = tokenize_corpus(corpus_rows(TEXTS[:30], "sentences"), tokenizer, max_length=64, cache=tmp_path)
    sentences = [sentence for text in TEXTS[:30] for sentence in split_sentences(text)]
    assert len(sentences) == sum(1 + number % 4 for number in range(30))
    assert ids_of(train) == tokenizer(sentences)["input_ids"]


def packed(texts: list[str], begins: list[bool], room: int, across: bool) -> list[list[int]]:
    """Reference implementation: sentences are added as long as they fit."""
    tokenizer = tiny_tokenizer()
    sequences: list[list[int]] = []
    for text, begin in zip(texts, begins, strict=True):
        fresh = begin and not across
        for sentence in split_sentences(text):
            ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
            for start in range(0, len(ids), room):
                part = ids[start : start + room]
                if fresh or not sequences or len(sequences[-1]) + len(part) > room:
                    sequences.append([])
                sequences[-1] += part
                fresh = False
    return sequences


@pytest.mark.parametrize("across", [False, True])
def test_sequences_are_filled_with_sentences_within_documents(tmp_path: Path, across: bool) -> None:
    texts = [story(number, number % 5) or "." for number in range(60)]
    begins = [number % 7 == 0 for number in range(60)]
    rows = corpus_rows(texts, {"kind": "sequences", "across_documents": across}, begins=begins)
    tokenizer = tiny_tokenizer()
    train, _ = tokenize_corpus(rows, tokenizer, max_length=40, cache=tmp_path)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert ids_of(train) == [[cls, *ids, sep] for ids in packed(texts, begins, 38, across)]
    assert max(train.lengths) <= 40


def test_packing_does_not_depend_on_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [story(number, 6) for number in range(40)]
    begins = [number % 9 == 0 for number in range(40)]
    for cut in ("sequences", "pairs", "rows"):
        result = []
        for size in (1 << 18, 300, 1):
            monkeypatch.setattr("stages.text.fingerprints.MOST_CHARACTERS", size)
            train, _ = tokenize_corpus(
                corpus_rows(texts, cut, begins=begins), tiny_tokenizer(), max_length=30, cache=tmp_path / str(size)
            )
            result.append(ids_of(train))
        assert result[0] == result[1] == result[2]


@pytest.mark.parametrize("make", [tiny_tokenizer, roberta_like])
def test_pairs_have_the_tokenizers_form(tmp_path: Path, make: Any) -> None:
    tokenizer = make()
    texts = [story(number, 9) for number in range(20)]
    train, _ = tokenize_corpus(corpus_rows(texts, "pairs"), tokenizer, max_length=48, cache=tmp_path)
    documents = [
        list(itertools.chain.from_iterable(tokenizer(split_sentences(text), add_special_tokens=False)["input_ids"]))
        for text in texts
    ]
    flat = [f" {' '.join(map(str, ids))} " for ids in documents]
    lengths = []
    for row, ids in enumerate(ids_of(train)):
        special = np.flatnonzero(np.isin(ids, [tokenizer.cls_token_id or 2, 3]))
        a, b = ids[1 : special[1]], ids[special[-2] + 1 : -1]
        assert ids == tokenizer.convert_tokens_to_ids(["[CLS]"]) + a + ids[special[1] : special[-2] + 1] + b + [3]
        assert len(special) == tokenizer.num_special_tokens_to_add(pair=True)
        for segment in (a, b):
            assert any(f" {' '.join(map(str, segment))} " in document for document in flat)
        if make is tiny_tokenizer:
            assert types_of(train)[row] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        lengths.append(len(ids))
    assert max(lengths) == 48
    assert np.mean(np.array(lengths) > 40) > 0.5


def test_sequences_do_not_mix_sources_which_are_counted(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": story(number, 3)} for number in range(9)])
    write_rows(tmp_path / "b.jsonl", [{"text": story(number, 1)} for number in range(9, 40)])
    corpus = GeneralCorpus.model_validate(
        {
            "sources": [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"],
            "cut": {"kind": "sequences", "across_documents": True},
            "max_length": 32,
            "held_out_rows": 2,
        }
    )
    tokenizer = tiny_tokenizer()
    summary = corpus_summary(corpus, tmp_path / "cache", tokenizer)
    rows = load_corpus(corpus, tmp_path / "cache")
    train, _ = tokenize_corpus(rows, tokenizer, max_length=32, cache=tmp_path / "cache")
    result = summary.sequences
    assert result is not None
    assert (result.sequences, result.tokens) == (len(train), train.num_tokens)
    first = rows.source_rows[0]
    text = rows.train["text"][:]
    of_source = [packed(part, [False] * len(part), 30, across=True) for part in (text[:first], text[first:])]
    assert [ids[1:-1] for ids in ids_of(train)] == of_source[0] + of_source[1]
    assert result.per_source == (len(of_source[0]), len(of_source[1]))
    assert result.full == np.mean(train.lengths == 32)
    assert result.length_percentiles["0"] == train.lengths.min()
    assert result.length_percentiles["50"] == np.sort(train.lengths)[(len(train) - 1) // 2]
    assert corpus_summary(corpus, tmp_path / "cache").sequences is None


def test_only_a_different_cut_tokenises_again(tmp_path: Path) -> None:
    def rows_of_cut(cut: str) -> list[list[int]]:
        rows = corpus_rows(TEXTS[:9], cut)
        return ids_of(tokenize_corpus(rows, tiny_tokenizer(), max_length=32, cache=tmp_path)[0])

    first = rows_of_cut("rows")
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.bin")}
    assert rows_of_cut("rows") == first
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.bin")} == stamps
    assert rows_of_cut("sentences") != first
    assert not list(tmp_path.rglob("scratch*"))


def test_text_without_tokens_and_lengths_without_room_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no token is left"):
        tokenize_corpus(corpus_rows(["\u200b"], "sequences"), tiny_tokenizer(), max_length=9, cache=tmp_path)
    with pytest.raises(DataError, match="adds 3 special tokens"):
        tokenize_corpus(corpus_rows(["a"], "pairs"), tiny_tokenizer(), max_length=4, cache=tmp_path)


def test_weights_decide_the_mixture_of_training_tokens(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": story(number, 3)} for number in range(60)])
    write_rows(tmp_path / "b.jsonl", [{"text": story(number, 1)} for number in range(60, 80)])
    sources = [
        {"kind": "files", "paths": [f"{tmp_path}/a.jsonl"], "weight": 1},
        {"kind": "files", "paths": [f"{tmp_path}/b.jsonl"], "weight": 3},
    ]
    corpus = GeneralCorpus.model_validate({"sources": sources, "max_length": 64, "held_out_rows": 3})
    tokenizer = tiny_tokenizer()
    rows = load_corpus(corpus, tmp_path / "cache")
    train, held_out = tokenize_corpus(rows, tokenizer, max_length=64, cache=tmp_path / "cache")
    assert train.mixture == Mixture(rows.source_rows, (1.0, 3.0))
    assert held_out.mixture is None
    assert train.first(5).mixture is None
    size = TypeAdapter(BatchSize).validate_python("8 sequences")
    batches = Batches(train.lengths, size, 512, 0, train.mixture)
    seen = np.concatenate([np.concatenate(batches.step(step)) for step in range(batches.steps_in_epoch(0))])
    tokens = train.lengths[seen]
    small = seen >= rows.source_rows[0]
    assert tokens[small].sum() == pytest.approx(3 * tokens[~small].sum(), rel=0.03)
    assert len(set(seen[~small].tolist())) == rows.source_rows[0] == (~small).sum()


def test_error_names_a_weighted_source_without_tokens(tmp_path: Path) -> None:
    rows = corpus_rows(["a plot", "\u200b"], source_rows=(1, 1), weights=(1.0, 1.0))
    with pytest.raises(DataError, match=r"general_corpus.sources\[1\]: this tokenizer leaves no token of its text"):
        tokenize_corpus(rows, tiny_tokenizer(), max_length=9, cache=tmp_path)
