"""Texts as token ids.

An encoding is a dict of columns of equal length: `input_ids` and perhaps `token_type_ids`, lists; `label`, by the kind;
`tags`, a number for each token; `spans`, two numbers for each token, flat; `example`, the row that a window or a choice
belongs to; `cut`, True where part of a text was left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

Columns = dict[str, list[Any]]
Encode = Callable[[Columns, list[int]], Columns]
"""Maps columns of some rows, and the rows' numbers, to the columns of their sequences."""


def ids_of(encoded: BatchEncoding) -> Columns:
    """Return the token ids and, where the tokenizer makes them, the token types."""
    return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}


def is_cut(encoded: BatchEncoding) -> list[bool]:
    """Return, for each text, whether part of it was left out."""
    return [bool(encoding.overflowing) for encoding in encoded.encodings or ()]


def encode_pairs(
    tokenizer: PreTrainedTokenizerFast, max_length: int, first: list[str], second: list[str] | None
) -> Columns:
    """Encode texts, or pairs of texts of which the longer one is cut."""
    encoded = tokenizer(
        first,
        second,
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
    return ids_of(encoded) | {"cut": is_cut(encoded)}


def text_encoder(tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
    """Return the encoder of rows that are one sequence each."""

    def encode(batch: Columns, _rows: list[int]) -> Columns:
        second = batch["text_pair"] if is_pair else None
        columns = encode_pairs(tokenizer, max_length, batch["text"], second)
        return columns | ({"label": batch["label"]} if "label" in batch else {})

    return encode
