"""A saved student opens as trained, with transformers, tokenizers alone and sentence-transformers, for every user."""

from __future__ import annotations

import json
import os
import stat
import warnings
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from schemas.core.kinds import Embedding
from stages.models.encoders import load_encoder
from stages.models.sentence_encoder import sentence_encoder
from stages.saved_model import save_model
from tests.support.builders import tiny_tokenizer
from tests.support.toys import toy_teacher

LONGEST = 12
LONG = "good " * 100


@pytest.fixture
def padding_tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that pads and cuts every text at 40 tokens, as MiniLM's does at 128, loaded from a folder."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=40)
    tokenizer.backend_tokenizer.enable_truncation(40)
    tokenizer.save_pretrained(tmp_path / "padding")
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(tmp_path / "padding", local_files_only=True)
    return loaded


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    teacher = toy_teacher(folder / "teacher", labels=("bad", "good"))
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    save_model(model, tokenizer, folder / "model", max_length=LONGEST)
    return folder / "model"


def test_tokenizers_alone_pads_to_the_longest_text_and_cuts_at_the_trained_length(
    tmp_path: Path, padding_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer = Tokenizer.from_file(str(saved(tmp_path, padding_tokenizer) / "tokenizer.json"))
    short = tokenizer.encode_batch(["good", "good film"])
    assert [encoding.ids for encoding in short] == [[*short[0].ids[:3], 0], short[1].ids]
    assert [encoding.attention_mask for encoding in short] == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert len(tokenizer.encode(LONG).ids) == LONGEST
    assert len(tokenizer.encode("good", LONG).ids) == LONGEST


def test_transformers_cuts_at_the_trained_length(tmp_path: Path, padding_tokenizer: PreTrainedTokenizerFast) -> None:
    folder = saved(tmp_path, padding_tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == LONGEST
    assert len(tokenizer(LONG, truncation=True)["input_ids"]) == LONGEST
    assert tokenizer("good film")["input_ids"] == tiny_tokenizer()("good film")["input_ids"]
    (answer,) = pipeline("text-classification", model=str(folder), truncation=True)(LONG)
    assert answer["label"] in ("bad", "good")


def test_what_loading_left_behind_is_not_written(tmp_path: Path, padding_tokenizer: PreTrainedTokenizerFast) -> None:
    written = json.loads((saved(tmp_path, padding_tokenizer) / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written["model_max_length"] == LONGEST
    assert not {"is_local", "local_files_only", "max_length", "stride", "truncation_strategy"} & written.keys()


def test_the_tokenizer_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length
    saved(tmp_path, tokenizer)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length) == before


@pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX's")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_every_file_can_be_read_by_whom_the_mask_allows(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        folder = saved(tmp_path, tiny_tokenizer())
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes["model.safetensors"] == mode
    assert set(modes.values()) == {mode}


@pytest.mark.parametrize("width", [None, 24])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_sentence_transformers_gives_the_same_vectors(
    tmp_path: Path, padding_tokenizer: PreTrainedTokenizerFast, width: int | None, pooling: str
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_encoder(
        load_encoder(toy_teacher(tmp_path / "teacher")),
        Embedding.model_validate({"pooling": pooling}),
        width=width,
        seed=0,
    )
    save_model(model, padding_tokenizer, tmp_path / "model", max_length=LONGEST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        opened = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert opened.max_seq_length == LONGEST
    assert opened.similarity_fn_name == "cosine"
    texts = ["good film", LONG]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**batch).logits
    torch.testing.assert_close(torch.from_numpy(opened.encode(texts)), expected, rtol=1e-5, atol=1e-5)
