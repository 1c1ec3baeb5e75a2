"""What a tokenizer puts around a text or a pair of texts, and sequences made with it in arrays."""

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
# Texts that each tokenizer makes something of, if only its unknown token.
_PROBES = ("a", "1", "\u4e00")


class Encoder:
    """Token ids of texts, without what the tokenizer puts around them.

    A copy, because the tokenizer's own backend keeps the truncation and the padding of the last call.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        own = tokenizer.backend_tokenizer
        self.backend = Tokenizer.from_str(own.to_str())
        self.backend.encode_special_tokens = own.encode_special_tokens
        self.backend.no_truncation()
        self.backend.no_padding()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of all texts, one text after the other, and how many each has."""
        encoded = [made.ids for made in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        flat = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        return flat, lengths


@dataclass(frozen=True)
class Template:
    """Special tokens before, between and after the texts, and the token types of all."""

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
        """Tokens that are no text."""
        return len(self.special_types)


def template_of(encoder: Encoder, *, is_pair: bool) -> Template:
    """What stands around a text, or around two.

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
    """Whole sequences, one after the other.

    Args:
        flat: the tokens of every sequence's text or texts.
        lengths: (sequences,) how many of them are the first text's; for pairs the second's too.
        template: what stands around them.

    Returns:
        Ids, token types, and the length of each sequence.
    """
    whole: NDArray[np.int64] = np.stack(lengths).sum(axis=0) + template.num_special
    starts = np.cumsum(whole) - whole
    places = [starts[:, None] + np.arange(len(template.before))]
    middle = starts + len(template.before) + lengths[0]
    places.append(middle[:, None] + np.arange(len(template.between)))
    last = starts + whole - len(template.after)
    places.append(last[:, None] + np.arange(len(template.after)))
    special = np.concatenate(places, axis=1)
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
