"""From rows of text to token ids: made once by the tokenizer, then read from flat arrays on disk.

A batch is cut out of one long memory-mapped array, without a Python object per row or token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from schemas.base import digest_of
from schemas.errors import DataError
from stages.bounds import in_parts, rows_at_once
from stages.files import quiet
from stages.sources import CorpusRows, TaskRows
from stages.whole import is_whole, make_whole

# Raise when the same rows and tokenizer should give other sequences.
TOKENS_VERSION = 1
ROWS_PER_BATCH = 1000


@dataclass(frozen=True)
class Batch:
    """Padded sequences, padding on the right.

    input_ids       (batch, seq)  int64
    attention_mask  (batch, seq)  int64, 1 for real tokens
    token_type_ids  (batch, seq)  int64; None when the tokenizer makes none
    labels          (batch,)      int64; None for text without labels
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    labels: Tensor | None
    num_tokens: int
    """Real tokens, padding excluded."""
    word_labels: Tensor | None = None
    """(batch, seq) int64, the word that was masked, -100 where none is to be predicted; None unless words are."""
    indices: NDArray[np.int64] | None = None
    """(batch,) which rows of the text it holds; None where it was made by hand."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self, input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            token_type_ids=moved(self.token_type_ids), labels=moved(self.labels),
            word_labels=moved(self.word_labels),
        )  # fmt: skip

    def lengths(self) -> list[int]:
        """Real tokens of each sequence."""
        lengths: list[int] = self.attention_mask.sum(-1).tolist()
        return lengths

    def rows(self, chosen: slice) -> Batch:
        """Some of its sequences, with the padding they had."""
        mask = self.attention_mask[chosen]

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen]

        return replace(
            self, input_ids=self.input_ids[chosen], attention_mask=mask,
            token_type_ids=cut(self.token_type_ids), labels=cut(self.labels),
            word_labels=cut(self.word_labels), num_tokens=int(mask.sum()),
            indices=None if self.indices is None else self.indices[chosen],
        )  # fmt: skip

    def model_inputs(self) -> dict[str, Tensor]:
        """What a transformers model is called with, labels excluded."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return (
            inputs
            if self.token_type_ids is None
            else {**inputs, "token_type_ids": self.token_type_ids}
        )


@dataclass(frozen=True)
class Tokens:
    """Tokenised sequences, memory-mapped.

    ids      (tokens,)     int32, all sequences one after the other, special tokens included
    lengths  (sequences,)  int32, real tokens of each
    types    (tokens,)     uint8 token types; None when the tokenizer makes none
    labels   (sequences,)  int64; None for text without labels
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    types: NDArray[np.uint8] | None
    labels: NDArray[np.int64] | None
    pad_token_id: int
    digest: str
    """Of rows, tokenizer and max_length."""
    starts: NDArray[np.int64]
    """(sequences,) where each sequence begins in `ids`."""

    def __len__(self) -> int:
        """How many sequences."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Real tokens of all sequences."""
        return len(self.ids)

    @classmethod
    def joined(cls, parts: Sequence[Tokens], num_classes: Sequence[int]) -> Tokens:
        """The sequences of several labelled tasks one after the other, their classes numbered on."""
        labels, first = [], 0
        for part, number in zip(parts, num_classes, strict=True):
            assert part.labels is not None
            labels.append(part.labels + first)
            first += number
        lengths = np.concatenate([part.lengths for part in parts])
        types = [part.types for part in parts if part.types is not None]
        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            lengths=lengths,
            types=np.concatenate(types) if len(types) == len(parts) else None,
            labels=np.concatenate(labels),
            pad_token_id=parts[0].pad_token_id,
            digest=digest_of({"joined": [part.digest for part in parts]}),
            starts=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]).astype(np.int64),
        )

    def first(self, number: int) -> Tokens:
        """The first sequences alone."""
        lengths = self.lengths[:number]
        end = int(lengths.sum())
        return replace(
            self,
            ids=self.ids[:end],
            lengths=lengths,
            types=None if self.types is None else self.types[:end],
            labels=None if self.labels is None else self.labels[:number],
            digest=digest_of({"first": number, "of": self.digest}),
            starts=self.starts[:number],
        )

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The sequences `indices`, in that order, padded to the longest of them."""
        lengths = self.lengths[indices].astype(np.int64)
        places = np.arange(lengths.max(), dtype=np.int64)
        is_real = places[None, :] < lengths[:, None]
        taken = (self.starts[indices][:, None] + places[None, :])[is_real]
        input_ids = np.full(is_real.shape, self.pad_token_id, dtype=np.int64)
        input_ids[is_real] = self.ids[taken]
        types = None
        if self.types is not None:
            types = np.zeros(is_real.shape, dtype=np.int64)
            types[is_real] = self.types[taken]
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(is_real.astype(np.int64)),
            token_type_ids=None if types is None else torch.from_numpy(types),
            labels=None
            if self.labels is None
            else torch.from_numpy(np.asarray(self.labels[indices], np.int64)),
            num_tokens=int(lengths.sum()),
            indices=indices,
        )


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
    found = _load(folder, pad_token_id, digest)
    if found is None:
        encode = _encoder(tokenizer, max_length, is_pair, cuts_off)
        _build(rows, encode, folder, digest)
        found = _load(folder, pad_token_id, digest)
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


def _load(folder: Path, pad_token_id: int, digest: str) -> Tokens | None:
    """What `_build` left in `folder`; None when it is not there, or no longer as it was."""
    if not is_whole(folder):
        return None
    try:
        lengths = np.load(folder / "lengths.npy")
        ends = np.cumsum(lengths, dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        if len(ends) == 0:
            return Tokens(np.empty(0, np.int32), lengths, None, None, pad_token_id, digest, ends)
        types = labels = None
        if (folder / "types.bin").exists():
            types = np.memmap(folder / "types.bin", np.uint8, "r", shape=(total,))
        if (folder / "labels.npy").exists():
            labels = np.load(folder / "labels.npy")
        ids = np.memmap(folder / "ids.bin", np.dtype("<i4"), "r", shape=(total,))
        return Tokens(ids, lengths, types, labels, pad_token_id, digest, ends - lengths)
    except (OSError, ValueError):
        return None
