"""Small tokenizers for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = (
    "a the film plot actor is was very not good bad great dull warm slow and with of in to it "
    "this that one two three red blue green fast old new play score music scene"
).split()


SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_tokenizer(vocab_words: Sequence[str] = WORDS, *, pad: bool = True) -> PreTrainedTokenizerFast:
    """Return a BERT-style WordPiece tokenizer of `vocab_words` and single letters.

    Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then letters, their ## pieces and the words.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = SPECIAL_TOKENS + letters + [f"##{letter}" for letter in letters]
    vocabulary = {piece: rank for rank, piece in enumerate(dict.fromkeys([*pieces, *vocab_words]))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return bert_tokenizer(tokenizer, pad=pad)


def bert_tokenizer(tokenizer: Tokenizer, *, pad: bool = True) -> PreTrainedTokenizerFast:
    """Return the tokenizer with BERT's special tokens and segments."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]" if pad else None,
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
