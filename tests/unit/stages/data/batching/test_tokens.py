"""Token ids equal those of the tokenizer, are padded correctly, and are computed once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from schemas.core.errors import DataError
from stages.data.batching.payloads import Labels, Payload, RowLabels
from stages.data.corpus.prepare import CorpusRows
from stages.data.corpus.tokenize import tokenize_corpus
from stages.data.tasks.tokenize import tokenize_task, tokenizer_digest
from stages.kinds.rows import TaskRows
from tests.support.builders import tiny_tokenizer

TEXTS = ["the film was great", "a dull plot", "the actor is very good in this one and the music is warm"]
PAIRS = ["it was", "not a good one with a slow new score of the old film", "old"]


def task_rows(*, pair: bool = False, digest: str = "d") -> TaskRows:
    columns = {"text": TEXTS, **({"text_pair": PAIRS} if pair else {}), "label": [1, 0, 1]}
    rows = Dataset.from_dict(columns)
    return TaskRows(rows, rows.select([2, 0]), ("0", "1"), digest)


def corpus_rows(texts: list[str], digest: str = "c") -> CorpusRows:
    return CorpusRows(Dataset.from_dict({"text": texts}), Dataset.from_dict({"text": TEXTS}), digest)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("max_length", [8, 64])
def test_sequences_equal_the_tokenizers_output_for_each_row(tmp_path: Path, pair: bool, max_length: int) -> None:
    tokenizer = tiny_tokenizer()
    train, _ = tokenize_task(task_rows(pair=pair), tokenizer, max_length=max_length, cache=tmp_path)
    batch = train.batch(np.array([2, 0, 1]))
    order = [2, 0, 1]
    expected = tiny_tokenizer()(
        [TEXTS[row] for row in order],
        [PAIRS[row] for row in order] if pair else None,
        truncation="longest_first",
        max_length=max_length,
        padding=True,
        return_tensors="pt",
    )
    inputs = batch.model_inputs()
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, tensor in inputs.items():
        assert torch.equal(tensor, expected[name])
        assert tensor.dtype == torch.int64
    assert batch.targets_as(Labels).values.tolist() == [1, 1, 0]
    assert batch.num_tokens == int(expected["attention_mask"].sum())
    assert train.num_tokens == train.lengths.sum() == batch.num_tokens


def test_validation_rows_keep_their_order_and_labels(tmp_path: Path) -> None:
    _, validation = tokenize_task(task_rows(), tiny_tokenizer(), max_length=32, cache=tmp_path)
    assert len(validation) == 2
    assert validation.payload_as(RowLabels).labels.tolist() == [1, 1]


def test_long_text_of_a_corpus_is_split_into_complete_sequences(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    words = ("the film was very good and the music is warm " * 3).split()
    train, held_out = tokenize_corpus(
        corpus_rows([" ".join(words), "a plot"]), tokenizer, max_length=12, cache=tmp_path
    )
    ids = [train.batch(np.array([row])).input_ids[0].tolist() for row in range(len(train))]
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in ids)
    assert [len(row) for row in ids] == [12, 12, 12, 4]
    joined = [token for row in ids[:3] for token in row[1:-1]]
    assert joined == tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    assert type(train.payload) is Payload
    assert len(held_out) > 0


def test_rows_without_tokens_are_dropped_from_a_corpus(tmp_path: Path) -> None:
    train, _ = tokenize_corpus(corpus_rows(["\u200b", "a plot"]), tiny_tokenizer(), max_length=8, cache=tmp_path)
    assert len(train) == 1
    with pytest.raises(DataError, match="no token is left"):
        tokenize_corpus(corpus_rows(["\u200b"], digest="e"), tiny_tokenizer(), max_length=8, cache=tmp_path)


def test_a_second_run_does_not_tokenise_again(tmp_path: Path) -> None:
    first, _ = tokenize_task(task_rows(), tiny_tokenizer(), max_length=16, cache=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again, _ = tokenize_task(task_rows(), tiny_tokenizer(), max_length=16, cache=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    assert np.array_equal(first.ids, again.ids)
    assert isinstance(again.ids, np.memmap)
    assert first.digest == again.digest


def test_changing_length_tokenizer_or_text_tokenises_again(tmp_path: Path) -> None:
    digests = {
        tokenize_task(task_rows(digest=digest), tokenizer, max_length=length, cache=tmp_path)[0].digest
        for digest, tokenizer, length in [
            ("d", tiny_tokenizer(), 16),
            ("e", tiny_tokenizer(), 16),
            ("d", tiny_tokenizer(["film"]), 16),
            ("d", tiny_tokenizer(), 17),
        ]
    }
    assert len(digests) == 4


def test_an_incomplete_cache_is_rebuilt(tmp_path: Path) -> None:
    first, _ = tokenize_task(task_rows(), tiny_tokenizer(), max_length=16, cache=tmp_path)
    ids = np.array(first.ids)
    del first
    for path in tmp_path.rglob("ids.bin"):
        os.truncate(path, 4)
    again, _ = tokenize_task(task_rows(), tiny_tokenizer(), max_length=16, cache=tmp_path)
    assert np.array_equal(again.ids, ids)


def test_the_tokenizer_digest_ignores_its_last_call_and_its_folder(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer_digest(type(tokenizer).from_pretrained(tmp_path)) == before


def test_a_tokenizer_without_padding_token_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no padding token"):
        tokenize_task(task_rows(), tiny_tokenizer(pad=False), max_length=16, cache=tmp_path)


def test_a_max_length_without_room_for_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"adds 3 special tokens .* at least 5"):
        tokenize_task(task_rows(pair=True), tiny_tokenizer(), max_length=4, cache=tmp_path)


def test_moving_a_batch_keeps_its_values(tmp_path: Path) -> None:
    train, _ = tokenize_task(task_rows(), tiny_tokenizer(), max_length=16, cache=tmp_path)
    batch = train.batch(np.array([0]))
    moved = batch.to("meta")
    assert moved.input_ids.device.type == "meta"
    assert moved.targets_as(Labels).values.device.type == "meta"
    assert moved.num_tokens == batch.num_tokens
