"""Tokenised rows of a task as the flat arrays of `Tokens`: written once, then read from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from stages.data.batching.tokens import Tokens, load_tokens, write_starts
from stages.data.files.limits import CHUNK_BYTES, rows_at_once
from stages.data.readers.dataset_files import quiet
from stages.kinds.encode import Encode
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.storage.format_versions import TOKENS_VERSION
from stages.storage.sealed_folder import make_whole
from stages.text.pieces import pieces_of

ROWS_PER_BATCH = 1000


def tokenize_task(
    rows: TaskRows, tokenizer: PreTrainedTokenizerFast, *, max_length: int, cache: Path
) -> tuple[Tokens, Tokens]:
    """Return training and validation sequences: one per row, one per choice, or as many windows as a context needs.

    Longer texts are cut; of a pair, the longer text is cut first.

    Raises:
        DataError: the tokenizer has no padding token or no fast version, or `max_length` leaves no
            room for text.
    """
    train, validation = (
        tokenize_split(rows, split, tokenizer, max_length=max_length, cache=cache) for split in ("train", "validation")
    )
    return train, validation


def tokenize_split(
    rows: TaskRows, split: str, tokenizer: PreTrainedTokenizerFast, *, max_length: int, cache: Path
) -> Tokens:
    """Return the sequences of a split: `train`, `validation`, or the name of further validation rows.

    The two texts of an embedding's validation pair are two sequences, one after the other.

    Raises:
        DataError: as `tokenize_task`.
    """
    kind = kind_of(rows.problem)
    data = kind.rows_to_encode(rows.split(split))
    is_pair = kind.is_pair(data)
    check_tokenizer(tokenizer, max_length, is_pair)
    digest = digest_of(
        {
            "rows": f"{rows.digest}/{split}",
            "problem": rows.problem.model_dump(mode="json"),
            "tokenizer": tokenizer_digest(tokenizer),
            "max_length": max_length,
            "version": TOKENS_VERSION,
        }
    )

    def fill(beside: Path) -> None:
        _fill(data, kind.encoder(tokenizer, max_length, is_pair=is_pair), beside, digest, kind.label_type)

    return kept_tokens(cache, digest, int(tokenizer.pad_token_id), fill)[0]


def kept_tokens(cache: Path, digest: str, pad_token_id: int, fill: Callable[[Path], None]) -> tuple[Tokens, Path]:
    """Return the sequences kept under a digest, after making them if they are missing, and their folder.

    Args:
        cache: folder of tokenised data.
        digest: digest of rows, tokenizer and everything else that decides the sequences.
        pad_token_id: fills up batches.
        fill: writes the files of the sequences into a folder.

    Raises:
        DataError: the tokenizer leaves no token of the text.
    """
    folder = cache / "tokens" / digest[:32]
    tokens = load_tokens(folder, pad_token_id, digest)

    def fill_all(beside: Path) -> None:
        fill(beside)
        write_starts(beside)

    if tokens is None:
        make_whole(folder, fill_all)
        tokens = load_tokens(folder, pad_token_id, digest)
    if tokens is None or len(tokens) == 0:
        raise no_token_left()
    return tokens, folder


def no_token_left() -> DataError:
    """Return the error for text of which a tokenizer leaves no token."""
    return DataError("no token is left of the text with this tokenizer; check that both are of one language")


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 of everything that decides the ids of a text, wherever the tokenizer came from."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # The backend keeps truncation and padding of the last call, which are not part of the tokenizer.
    state.pop("truncation", None)
    state.pop("padding", None)
    return digest_of({"state": state, "inputs": sorted(tokenizer.model_input_names), "pad": tokenizer.pad_token_id})


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, max_length: int, is_pair: bool) -> None:
    """Refuse a tokenizer that cannot pad, or a `max_length` that leaves no room for text."""
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise DataError(f"tokenizer {name} has no fast version (tokenizer.json); convert it or take another teacher")
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"tokenizer {name} has no padding token; set pad_token in its tokenizer_config.json or take another teacher"
        )
    special = tokenizer.num_special_tokens_to_add(pair=is_pair)
    if max_length <= special + is_pair:
        raise DataError(
            f"max_length is {max_length}, but tokenizer {name} adds {special} special tokens to "
            "each sequence; "
            f"give at least {special + 1 + is_pair}"
        )


def _text_sizes(batch: dict[str, list[Any]]) -> np.ndarray:
    """Return the characters of each row, (rows,)."""
    columns = [batch[name] for name in ("text", "text_pair", "words") if name in batch]
    sizes = np.zeros(len(columns[0]), np.int64)
    for texts in columns:
        sizes += [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
    return sizes


def _fill(rows: Dataset, encode: Encode, folder: Path, digest: str, label_type: type) -> None:
    def encode_parts(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        parts = [
            encode({name: values[piece] for name, values in batch.items()}, indices[piece])
            for piece in pieces_of(_text_sizes(batch), CHUNK_BYTES)
        ]
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}

    with quiet():
        encoded = rows.map(
            encode_parts,
            batched=True,
            batch_size=rows_at_once(rows, ROWS_PER_BATCH),
            with_indices=True,
            remove_columns=rows.column_names,
            cache_file_name=str(folder / "encoded.arrow"),
            new_fingerprint=digest[:32],
        )
    _write_arrays(encoded, folder, label_type)
    del encoded
    (folder / "encoded.arrow").unlink(missing_ok=True)


_PER_TOKEN = {
    "input_ids": ("ids", "<i4"),
    "token_type_ids": ("types", "u1"),
    "tags": ("tags", "<i2"),
    "spans": ("spans", "<i4"),
}
"""Columns with numbers per token: name and format of their file."""


def _write_arrays(encoded: Dataset, folder: Path, label_type: type) -> None:
    (folder / "ids.bin").touch()  # exists even if no token is left
    lengths = [np.empty(0, np.int32)]
    per_row: dict[str, list[np.ndarray]] = {"label": [], "example": [], "cut": []}
    for table in _tables(encoded):
        lengths.append(table["input_ids"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False))
        for column, (name, dtype) in _PER_TOKEN.items():
            if column in table.column_names:
                flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                with open(folder / f"{name}.bin", "ab") as file:
                    file.write(flat.astype(dtype).tobytes())
        for column, values in per_row.items():
            if column in table.column_names:
                values.append(np.array(table[column].to_pylist()))
    if per_row["label"]:
        np.save(folder / "labels.npy", np.concatenate(per_row["label"]).astype(label_type))
    if per_row["cut"]:
        np.save(folder / "cut.npy", np.concatenate(per_row["cut"]).astype(bool))
    if per_row["example"]:
        np.save(folder / "examples.npy", np.concatenate(per_row["example"]).astype(np.int64))
    np.save(folder / "lengths.npy", np.concatenate(lengths).astype(np.int32))


def _tables(encoded: Dataset) -> Iterator[Any]:
    return iter(encoded.with_format("arrow").iter(batch_size=10 * ROWS_PER_BATCH)) if len(encoded) else iter(())
