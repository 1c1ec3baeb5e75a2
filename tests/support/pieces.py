"""Small tokenizers of every subword algorithm, over several scripts."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_letters

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.builders import tiny_tokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
CORPUS = [
    "the good film was a (great) film, and the Film is good",
    "good great film 3D naïve café",
    "我 很 喜欢 这 部 电影 ， 真 好看 。 电影 喜欢 好看",
    "我很喜欢这部电影，真好看。",
    "हिन्दी सिनेमा हिन्दी सिनेमा",
] * 30


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    pad, first, last, unknown, mask = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        cls_token=first,
        sep_token=last,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=512,
    )


def sentence_pieces() -> PreTrainedTokenizerFast:
    """A unigram model over ▁ pieces, as in XLM-R."""
    whole = ["▁film", "▁good", "▁great", "▁a", "film", "good", "ood", "喜欢", "电影", "好看"]
    letters = sorted(set("▁" + "".join(CORPUS) + ascii_letters) - {" "})
    pieces = [(piece, -2.0) for piece in whole] + [(letter, -9.0) for letter in letters]
    special = [(name, 0.0) for name in SPECIAL]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces], unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return wrapped(tokenizer)


def byte_pairs(*, trim_offsets: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level model over Ġ pieces, as in RoBERTa."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 1), trim_offsets=trim_offsets, add_prefix_space=False
    )
    return wrapped(tokenizer)


def word_pieces() -> PreTrainedTokenizerFast:
    """A WordPiece model with Chinese characters as words, as in Chinese BERTs."""
    return tiny_tokenizer([*"我很喜欢这部电影真好看", "##影", "film", "good", "naive", "cafe"])


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "▁": sentence_pieces,
    "Ġ": byte_pairs,
    "Ġ, space counted in": lambda: byte_pairs(trim_offsets=False),
    "##": word_pieces,
}
