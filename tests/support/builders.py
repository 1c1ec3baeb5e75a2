"""Small stand-ins for tests; nothing here touches a network or a real model."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = (
    "a the film plot actor is was very not good bad great dull warm slow and with of in to it "
    "this that one two three red blue green fast old new play score music scene"
).split()


def tiny_tokenizer(vocab_words: Sequence[str] = WORDS, *, pad: bool = True) -> PreTrainedTokenizerFast:
    """A BERT-style WordPiece tokenizer of `vocab_words` and single letters.

    Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then letters, their ## pieces and the words.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = specials + letters + [f"##{letter}" for letter in letters]
    vocabulary = {piece: rank for rank, piece in enumerate(dict.fromkeys([*pieces, *vocab_words]))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
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
