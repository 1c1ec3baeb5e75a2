"""Word masking: proportions, independence of microbatches, and masked-language models."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig

from schemas.core.errors import ConfigError, DataError
from stages.data.batching.payloads import MaskedWords, Targets
from stages.data.batching.tokens import Batch
from stages.models.encoders import load_encoder
from stages.models.masked_lm import has_word_head, load_word_model, with_word_head
from stages.objective.masking import NO_WORD, Masking
from tests.support.builders import tiny_tokenizer
from tests.support.toys import toy_teacher

TOKENIZER = tiny_tokenizer()
FIRST, LAST, MASK = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, TOKENIZER.mask_token_id


def batch_of(lengths: list[int], seed: int = 0) -> Batch:
    longest = max(lengths)
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(60, len(TOKENIZER), (len(lengths), longest), generator=draw)
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    ids = ids * mask
    for row, length in enumerate(lengths):
        ids[row, 0], ids[row, length - 1] = FIRST, LAST
    return Batch(ids, mask, None, Targets(), int(mask.sum()))


def masking(**changes: object) -> Masking:
    return (
        Masking.of(TOKENIZER, ratio=0.15, seed=3)
        if not changes
        else Masking.of(
            TOKENIZER,
            **{"ratio": 0.15, "seed": 3, **changes},  # type: ignore[arg-type]
        )
    )


def test_masking_follows_berts_proportions() -> None:
    batch = batch_of([62] * 400)
    masked = masking().mask(batch, np.arange(400), step=0)
    targets = masked.targets_as(MaskedWords).words
    chosen = targets != NO_WORD
    words = 400 * 60
    assert int(chosen.sum()) / words == pytest.approx(0.15, abs=0.01)
    assert torch.equal(targets[chosen], batch.input_ids[chosen])
    assert torch.equal(masked.input_ids[~chosen], batch.input_ids[~chosen])
    now = masked.input_ids[chosen]
    assert float((now == MASK).double().mean()) == pytest.approx(0.8, abs=0.03)
    kept = float((now == batch.input_ids[chosen]).double().mean())
    assert kept == pytest.approx(0.1, abs=0.03)


def test_special_tokens_and_padding_are_never_masked_and_every_row_has_a_masked_word() -> None:
    batch = batch_of([3, 9, 4, 2])
    for step in range(40):
        masked = masking().mask(batch, np.arange(4), step=step)
        chosen = masked.targets_as(MaskedWords).words != NO_WORD
        assert not bool((chosen & (batch.attention_mask == 0)).any())
        assert not bool((chosen & torch.isin(batch.input_ids, torch.tensor([FIRST, LAST]))).any())
        assert chosen.any(1).tolist() == [True, True, True, False]  # the last has no word at all


def test_masking_depends_only_on_row_and_step() -> None:
    batch = batch_of([12, 12, 12])
    together = masking().mask(batch, np.array([7, 8, 9]), step=5)
    alone = masking().mask(batch.rows(slice(1, 2)), np.array([8]), step=5)
    assert torch.equal(together.input_ids[1:2], alone.input_ids)
    later = masking().mask(batch, np.array([7, 8, 9]), step=6)
    assert not torch.equal(together.input_ids, later.input_ids)


def test_a_tokenizer_without_mask_token_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="needs a tokenizer with a mask token"):
        Masking.of(tokenizer, ratio=0.15, seed=0)


@pytest.fixture
def word_teacher(tmp_path: Path) -> Path:
    config = BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "words")
    TOKENIZER.save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_a_masked_language_head_is_detected(word_teacher: Path, tmp_path: Path) -> None:
    assert has_word_head(word_teacher)
    bare = toy_teacher(tmp_path / "bare")
    assert not has_word_head(bare)
    with pytest.raises(DataError, match="has no masked-language head"):
        load_word_model(bare)


def test_a_student_takes_the_teachers_head_and_keeps_its_own_embeddings(word_teacher: Path) -> None:
    encoder = load_encoder(word_teacher)
    with torch.no_grad():
        encoder.get_input_embeddings().weight.add_(1.0)  # type: ignore[operator,union-attr]
    embeddings = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model = with_word_head(encoder, word_teacher, seed=1)
    teacher_weights = load_word_model(word_teacher).state_dict()
    student_weights = model.state_dict()
    transform = "cls.predictions.transform.dense.weight"
    assert torch.equal(student_weights[transform], teacher_weights[transform])
    assert all(torch.equal(student_weights[f"bert.{name}"], tensor) for name, tensor in embeddings.items())
    assert torch.equal(
        student_weights["cls.predictions.decoder.weight"], embeddings["embeddings.word_embeddings.weight"]
    )


def test_the_encoder_of_a_masked_language_model_loads_with_its_pooler(word_teacher: Path, tmp_path: Path) -> None:
    encoder = load_encoder(word_teacher)
    pooler = encoder.state_dict()["pooler.dense.weight"].clone()
    with_word_head(encoder, word_teacher, seed=1).save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student").state_dict()
    assert torch.equal(again["pooler.dense.weight"], pooler)


def test_loading_two_models_at_once_keeps_weight_tying(word_teacher: Path) -> None:
    def load() -> None:
        for _ in range(3):
            load_encoder(word_teacher)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model = with_word_head(load_encoder(word_teacher), word_teacher, seed=1).state_dict()
    assert torch.equal(model["cls.predictions.decoder.weight"], model["bert.embeddings.word_embeddings.weight"])
    assert model["cls.predictions.decoder.weight"].data_ptr() == (
        model["bert.embeddings.word_embeddings.weight"].data_ptr()
    )
