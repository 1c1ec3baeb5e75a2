"""Special tokens of a tokenizer around a text or a pair of texts, and sequences assembled with them in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from stages.data.tasks.tokenize import no_token_left

Ids = NDArray[np.int32]
# Every tokenizer makes at least its unknown token of one of these.
_PROBES = ("a", "1", "\u4e00")


class Encoder:
    """Encoder of texts without special tokens.

    It works on a copy of the tokenizer's backend, which keeps the truncation and the padding of the last call.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        original = tokenizer.backend_tokenizer
        self.backend = Tokenizer.from_str(original.to_str())
        self.backend.encode_special_tokens = original.encode_special_tokens
        self.backend.no_truncation()
        self.backend.no_padding()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids of all texts, one text after the other, and the number of each text's ids."""
        encoded = [text.ids for text in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        flat = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        return flat, lengths


@dataclass(frozen=True)
class Template:
    """Special tokens before, between and after the texts, and all token types."""

    before: Ids
    between: Ids
    """Empty for single texts."""
    after: Ids
    special_types: NDArray[np.uint8]
    """Of the special tokens, in order."""
    text_types: tuple[int, ...]
    """Of each text."""

    @property
    def num_special(self) -> int:
        """Number of special tokens."""
        return len(self.special_types)


def template_of(encoder: Encoder, *, is_pair: bool) -> Template:
    """Return the special tokens around a text, or around a pair.

    Raises:
        DataError: the tokenizer makes nothing of any text.
    """
    for probe in _PROBES:
        whole = encoder.backend.encode(probe, probe if is_pair else None)
        owners = np.array([-1 if owner is None else owner for owner in whole.sequence_ids])
        if (owners >= 0).any():
            break
    else:
        raise no_token_left()
    ids, types = np.array(whole.ids, np.int32), np.array(whole.type_ids, np.uint8)
    first, last = np.flatnonzero(owners == 0)[0], np.flatnonzero(owners == 0)[-1]
    second = np.flatnonzero(owners == 1)
    end = int(second[0]) if is_pair else last + 1
    return Template(
        before=ids[:first],
        between=ids[last + 1 : end],
        after=ids[(second[-1] if is_pair else last) + 1 :],
        special_types=types[owners < 0],
        text_types=(int(types[first]), int(types[end])) if is_pair else (int(types[first]),),
    )


def assembled(
    flat: Ids, lengths: Sequence[NDArray[np.int64]], template: Template
) -> tuple[Ids, NDArray[np.uint8], NDArray[np.int64]]:
    """Put the special tokens around texts.

    Args:
        flat: the tokens of every sequence's text or texts.
        lengths: (sequences,) tokens of each first text, and for pairs of each second text.
        template: the special tokens.

    Returns:
        Ids and token types of all sequences, one after the other, and the length of each.
    """
    whole: NDArray[np.int64] = np.stack(lengths).sum(axis=0) + template.num_special
    starts = np.cumsum(whole) - whole
    middle = starts + len(template.before) + lengths[0]
    last = starts + whole - len(template.after)
    groups = ((starts, template.before), (middle, template.between), (last, template.after))
    special = np.concatenate([first[:, None] + np.arange(len(tokens)) for first, tokens in groups], axis=1)
    ids = np.empty(int(whole.sum()), np.int32)
    types = np.empty(len(ids), np.uint8)
    is_text = np.ones(len(ids), bool)
    is_text[special] = False
    ids[special] = np.concatenate([template.before, template.between, template.after])
    types[special] = template.special_types
    ids[is_text] = flat
    kinds = np.tile(np.array(template.text_types, np.uint8), len(whole))
    types[is_text] = np.repeat(kinds, np.stack(lengths, axis=1).ravel())
    return ids, types, whole
