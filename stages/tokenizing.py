"""From rows of text to the flat arrays of `Tokens`: made once by the tokenizer, then read from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from schemas.base import digest_of
from schemas.errors import DataError
from stages.bounds import in_parts, rows_at_once
from stages.corpus import CorpusRows
from stages.files import quiet
from stages.sources import TaskRows
from stages.tokens import Tokens, load_tokens
from stages.whole import make_whole

# Raise when the same rows and tokenizer should give other sequences.
TOKENS_VERSION = 1
ROWS_PER_BATCH = 1000


def tokenize_task(
    rows: TaskRows, tokenizer: PreTrainedTokenizerFast, *, max_length: int, cache: Path
) -> tuple[Tokens, Tokens]:
    """Training and validation sequences, one a row; longer text is cut off, of a pair the longer.

    Raises:
        DataError: the tokenizer has no padding token or no fast version, or `max_length` leaves no
            room for text.
    """
    return (
        _tokens(rows.train, tokenizer, max_length, cache, f"{rows.digest}/train", cuts_off=True),
        _tokens(
            rows.validation,
            tokenizer,
            max_length,
            cache,
            f"{rows.digest}/validation",
            cuts_off=True,
        ),
    )


def tokenize_corpus(
    rows: CorpusRows, tokenizer: PreTrainedTokenizerFast, *, max_length: int, cache: Path
) -> tuple[Tokens, Tokens]:
    """Training and held-out sequences; longer text becomes several, each with special tokens.

    Raises:
        DataError: as `tokenize_task`, or the text has no tokens at all.
    """
    return (
        _tokens(rows.train, tokenizer, max_length, cache, f"{rows.digest}/train", cuts_off=False),
        _tokens(
            rows.held_out, tokenizer, max_length, cache, f"{rows.digest}/held_out", cuts_off=False
        ),
    )


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of what decides which ids a text becomes, wherever the tokenizer came from."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # The last call's truncation and padding stay in the backend; they are no part of the tokenizer.
    state.pop("truncation", None)
    state.pop("padding", None)
    return digest_of(
        {
            "state": state,
            "inputs": sorted(tokenizer.model_input_names),
            "pad": tokenizer.pad_token_id,
        }
    )


def _tokens(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    cache: Path,
    identity: str,
    *,
    cuts_off: bool,
) -> Tokens:
    is_pair = "text_pair" in rows.column_names
    _check_tokenizer(tokenizer, max_length, is_pair)
    digest = digest_of(
        {
            "rows": identity,
            "tokenizer": tokenizer_digest(tokenizer),
            "max_length": max_length,
            "cuts_off": cuts_off,
            "version": TOKENS_VERSION,
        }
    )
    folder = cache / "tokens" / digest[:32]
    pad_token_id = int(tokenizer.pad_token_id)
    found = load_tokens(folder, pad_token_id, digest)
    if found is None:
        encode = _encoder(tokenizer, max_length, is_pair, cuts_off)
        _build(rows, encode, folder, digest)
        found = load_tokens(folder, pad_token_id, digest)
    if found is None or len(found) == 0:
        raise DataError(
            "no token is left of the text with this tokenizer; check that both are of one language"
        )
    return found


def _check_tokenizer(tokenizer: PreTrainedTokenizerFast, max_length: int, is_pair: bool) -> None:
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise DataError(
            f"tokenizer {name} has no fast version (tokenizer.json); convert it or take another "
            "teacher"
        )
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"tokenizer {name} has no padding token; set pad_token in its tokenizer_config.json "
            "or take another teacher"
        )
    special = tokenizer.num_special_tokens_to_add(pair=is_pair)
    if max_length <= special + is_pair:
        raise DataError(
            f"max_length is {max_length}, but tokenizer {name} adds {special} special tokens to "
            "each sequence; "
            f"give at least {special + 1 + is_pair}"
        )


def _encoder(
    tokenizer: PreTrainedTokenizerFast, max_length: int, is_pair: bool, cuts_off: bool
) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    special = tokenizer.num_special_tokens_to_add(pair=is_pair)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        parts = [encode_some(part) for part in in_parts(batch)]
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}

    def encode_some(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["text"],
            batch["text_pair"] if is_pair else None,
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_overflowing_tokens=not cuts_off,
            verbose=False,
        )
        columns = {
            name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded
        }
        if not cuts_off:
            # Characters that the tokenizer drops leave nothing between the special tokens.
            kept = [place for place, ids in enumerate(columns["input_ids"]) if len(ids) > special]
            columns = {name: [values[place] for place in kept] for name, values in columns.items()}
        elif "label" in batch:
            columns["label"] = batch["label"]
        return columns

    return encode


def _build(
    rows: Dataset,
    encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]],
    folder: Path,
    digest: str,
) -> None:
    def fill(beside: Path) -> None:
        with quiet():
            encoded = rows.map(
                encode, batched=True, batch_size=rows_at_once(rows, ROWS_PER_BATCH),
                remove_columns=rows.column_names,
                cache_file_name=str(beside / "encoded.arrow"), new_fingerprint=digest[:32],
            )  # fmt: skip
        _write_arrays(encoded, beside)
        del encoded
        (beside / "encoded.arrow").unlink(missing_ok=True)

    make_whole(folder, fill)


def _write_arrays(encoded: Dataset, folder: Path) -> None:
    lengths = [np.empty(0, np.int32)]
    labels = []
    with open(folder / "ids.bin", "wb") as ids, open(folder / "types.bin", "wb") as types:
        for table in _tables(encoded):
            sequences = table["input_ids"].combine_chunks()
            lengths.append(
                sequences.value_lengths().to_numpy(zero_copy_only=False).astype(np.int32)
            )
            ids.write(sequences.flatten().to_numpy(zero_copy_only=False).astype("<i4").tobytes())
            if "token_type_ids" in table.column_names:
                flat = table["token_type_ids"].combine_chunks().flatten()
                types.write(flat.to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
            if "label" in table.column_names:
                labels.append(table["label"].to_numpy().astype(np.int64))
    if not encoded.column_names or "token_type_ids" not in encoded.column_names:
        (folder / "types.bin").unlink()
    if labels:
        np.save(folder / "labels.npy", np.concatenate(labels))
    np.save(folder / "lengths.npy", np.concatenate(lengths))


def _tables(encoded: Dataset) -> Iterator[Any]:
    return (
        iter(encoded.with_format("arrow").iter(batch_size=10 * ROWS_PER_BATCH))
        if len(encoded)
        else iter(())
    )
