"""A pruned vocabulary leaves the texts that it was taken from as they were, for every subword algorithm."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

from schemas.core.errors import ConfigError
from stages.export.vocabulary import prune, used_pieces
from tests.support.pieces import SPECIAL, TOKENIZERS

TEXTS = ["good film", "the good film was great", "我很喜欢这部电影"]
OTHERS = ["the Film is a café", "真好看 film3D", "zebra (good)"]


def model_of(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_texts_of_the_vocabulary_keep_pieces_and_answers(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    model = model_of(tokenizer)
    used = {number for ids in tokenizer(TEXTS)["input_ids"] for number in ids}
    kept = used_pieces(tokenizer, used)
    assert used <= set(kept)
    assert len(kept) < len(tokenizer)
    smaller, own = prune(model, tokenizer, kept)
    assert len(own) == len(kept) == smaller.config.vocab_size == smaller.get_input_embeddings().num_embeddings
    for text in TEXTS:
        assert own.convert_ids_to_tokens(own(text)["input_ids"]) == tokenizer.convert_ids_to_tokens(
            tokenizer(text)["input_ids"]
        )
    batches = [each(TEXTS, padding=True, return_tensors="pt") for each in (tokenizer, own)]
    with torch.no_grad():
        answers = [
            each(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            for each, batch in zip((model, smaller), batches, strict=True)
        ]
    assert torch.equal(*answers)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_nothing_that_was_known_becomes_unknown(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    used = {number for ids in tokenizer(TEXTS)["input_ids"] for number in ids}
    _, own = prune(model_of(tokenizer), tokenizer, used_pieces(tokenizer, used))
    for text in OTHERS:
        before, after = ([each.unk_token_id in each(text)["input_ids"]] for each in (tokenizer, own))
        assert after == before, text
        texts = [each.decode(each(text)["input_ids"], skip_special_tokens=True) for each in (tokenizer, own)]
        assert len({decoded.replace(" ##", "") for decoded in texts}) == 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_keep_their_meaning(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    _, own = prune(model_of(tokenizer), tokenizer, used_pieces(tokenizer, []))
    for token in tokenizer.all_special_tokens:
        assert own.convert_ids_to_tokens(own.convert_tokens_to_ids(token)) == token
    pair, before = own("a", "a")["input_ids"], tokenizer("a", "a")["input_ids"]
    assert own.convert_ids_to_tokens(pair) == tokenizer.convert_ids_to_tokens(before)
    assert own.pad_token_id == own.convert_tokens_to_ids(tokenizer.pad_token)


def test_the_model_and_tokenizer_in_memory_stay_as_they_are() -> None:
    tokenizer = TOKENIZERS["##"]()
    model = model_of(tokenizer)
    before = tokenizer.backend_tokenizer.to_str(), model.config.vocab_size
    prune(model, tokenizer, used_pieces(tokenizer, []))
    assert (tokenizer.backend_tokenizer.to_str(), model.config.vocab_size) == before
    assert model.get_input_embeddings().num_embeddings == before[1]


def test_another_kind_of_tokenizer_is_refused_by_name() -> None:
    words = Tokenizer(models.WordLevel({name: rank for rank, name in enumerate(SPECIAL)}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")
    with pytest.raises(ConfigError, match="WordPiece, BPE and Unigram tokenizers, and this one is WordLevel"):
        used_pieces(tokenizer, [])
