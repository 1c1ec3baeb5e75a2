"""Token ids in flat arrays on disk, and the padded batches that are cut out of them.

A batch is cut out of one long memory-mapped array, without a Python object per row or token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.core.base import digest_of
from stages.data.batching.mixture import Mixture
from stages.data.batching.payloads import ChoiceLabels, Choices, Payload, RowLabels, Targets, Windows, WordTags
from stages.storage.mapped_columns import slices, write_header
from stages.storage.sealed_folder import is_whole

SomeTargets = TypeVar("SomeTargets", bound=Targets)
SomePayload = TypeVar("SomePayload", bound=Payload)


@dataclass(frozen=True)
class Batch:
    """Padded sequences, padding on the right.

    input_ids       (batch, seq)  int64
    attention_mask  (batch, seq)  int64, 1 for real tokens
    token_type_ids  (batch, seq)  int64; None when the tokenizer makes none
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    targets: Targets
    """Labels, as far as the text has any."""
    num_tokens: int
    """Real tokens, without padding."""
    indices: NDArray[np.int64] | None = None
    """(batch,) numbers of the sequences in the text; None for a batch that was made by hand."""

    def targets_as(self, kind: type[SomeTargets]) -> SomeTargets:
        """Return the targets, which must be of a type.

        Raises:
            TypeError: they are of another type.
        """
        return _of_type(self.targets, kind)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            input_ids=change(self.input_ids),
            attention_mask=change(self.attention_mask),
            token_type_ids=None if self.token_type_ids is None else change(self.token_type_ids),
            targets=self.targets.map(change),
        )

    def lengths(self) -> list[int]:
        """Return the number of real tokens of each sequence."""
        lengths: list[int] = self.attention_mask.sum(-1).tolist()
        return lengths

    def first(self, number: int) -> Batch:
        """Return the first sequences with the padding they had; the choices of a row stay together."""
        if isinstance(self.targets, ChoiceLabels):
            ends = torch.unique_consecutive(self.targets.row_of, return_counts=True)[1].cumsum(0)
            number = int(ends[torch.clamp((ends <= number).sum() - 1, min=0)])
        return self.rows(slice(number))

    def rows(self, chosen: slice) -> Batch:
        """Return some sequences with the padding they had."""
        part = self._map(lambda tensor: tensor[chosen])
        indices = None if self.indices is None else self.indices[chosen]
        return replace(part, num_tokens=int(part.attention_mask.sum()), indices=indices)

    def model_inputs(self) -> dict[str, Tensor]:
        """Return the arguments of a transformers model, labels excluded."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else {**inputs, "token_type_ids": self.token_type_ids}


@dataclass(frozen=True)
class Tokens:
    """Tokenised sequences, memory-mapped.

    ids      (tokens,)     int32, all sequences one after the other, special tokens included
    lengths  (sequences,)  int32, number of real tokens
    types    (tokens,)     uint8 token types; None when the tokenizer makes none
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    types: NDArray[np.uint8] | None
    payload: Payload
    """Labels and what belongs to them, by the kind of task."""
    pad_token_id: int
    digest: str
    """Digest of rows, tokenizer and max_length."""
    starts: NDArray[np.int64]
    """(sequences,) position in `ids` at which each sequence begins."""
    cut: NDArray[np.bool_] | None = None
    """(sequences,) True where `max_length` left part of a row out; None where that is not known."""
    mixture: Mixture | None = None
    """Sequences of each source and its share of the training tokens; None to take each sequence once in an epoch."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Real tokens of all sequences."""
        return len(self.ids)

    def payload_as(self, kind: type[SomePayload]) -> SomePayload:
        """Return the payload, which must be of a type.

        Raises:
            TypeError: it is of another type.
        """
        return _of_type(self.payload, kind)

    @property
    def row_of(self) -> NDArray[np.int64]:
        """(sequences,) the row of the data that each sequence belongs to."""
        row_of = self.payload.row_of
        return np.arange(len(self)) if row_of is None else row_of

    @property
    def choice_of(self) -> NDArray[np.int64] | None:
        """(sequences,) the row that each sequence is a choice of; None where sequences are not choices.

        Windows of a context are learnt one by one, choices only beside each other.
        """
        return self.payload.rows if isinstance(self.payload, Choices) else None

    @classmethod
    def joined(cls, parts: Sequence[Tokens], num_outputs: Sequence[int]) -> Tokens:
        """Concatenate the sequences of several labelled tasks, and number the outputs of their heads on.

        A label is then (output, value): the class among all classes and 0, or the only output of a task of values and
        the value; NaN where a row has none.

        Args:
            parts: the tasks, of classes or of values.
            num_outputs: outputs of each task's head; the only output of a task is a value.
        """
        labels, first = [], 0
        for part, number in zip(parts, num_outputs, strict=True):
            values = part.payload_as(RowLabels).labels
            pairs = np.zeros((len(part), 2), np.float32)
            pairs[:, 0] = first if number == 1 else values + first
            pairs[:, 1] = values if number == 1 else 0
            pairs[np.isnan(values) if number == 1 else values < 0] = np.nan
            labels.append(pairs)
            first += number
        lengths = np.concatenate([part.lengths for part in parts])
        types = [part.types for part in parts if part.types is not None]
        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            lengths=lengths,
            types=np.concatenate(types) if len(types) == len(parts) else None,
            payload=RowLabels(np.concatenate(labels)),
            pad_token_id=parts[0].pad_token_id,
            digest=digest_of({"joined": [part.digest for part in parts]}),
            starts=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]).astype(np.int64),
        )

    def first(self, number: int) -> Tokens:
        """Return the first sequences."""
        lengths = self.lengths[:number]
        end = int(lengths.sum())
        return replace(
            self,
            ids=self.ids[:end],
            lengths=lengths,
            types=None if self.types is None else self.types[:end],
            payload=self.payload.selected(slice(number), slice(end)),
            digest=digest_of({"first": number, "of": self.digest}),
            starts=self.starts[:number],
            cut=None if self.cut is None else self.cut[:number],
            mixture=None,
        )

    def selected(self, rows: NDArray[np.int64]) -> Tokens:
        """Return some of the sequences, in the order of `rows`."""
        lengths, positions = self.lengths[rows], self.positions(rows)
        return replace(
            self,
            ids=np.asarray(self.ids[positions]),
            lengths=lengths,
            types=None if self.types is None else np.asarray(self.types[positions]),
            payload=self.payload.selected(rows, positions),
            digest=digest_of({"rows": rows.tolist(), "of": self.digest}),
            starts=np.cumsum(lengths, dtype=np.int64) - lengths,
            cut=None if self.cut is None else np.asarray(self.cut[rows]),
            mixture=None,
        )

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the sequences `indices`, in that order, padded to the longest of them."""
        lengths = self.lengths[indices].astype(np.int64)
        columns = np.arange(lengths.max(), dtype=np.int64)
        is_real = columns[None, :] < lengths[:, None]
        positions = (self.starts[indices][:, None] + columns[None, :])[is_real]
        input_ids = np.full(is_real.shape, self.pad_token_id, dtype=np.int64)
        input_ids[is_real] = self.ids[positions]
        types = None
        if self.types is not None:
            types = np.zeros(is_real.shape, dtype=np.int64)
            types[is_real] = self.types[positions]
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(is_real.astype(np.int64)),
            token_type_ids=None if types is None else torch.from_numpy(types),
            targets=self.payload.targets(indices, is_real, positions),
            num_tokens=int(lengths.sum()),
            indices=indices,
        )

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions in `ids` of the tokens of some sequences, one sequence after the other."""
        lengths = self.lengths[rows].astype(np.int64)
        ends = np.cumsum(lengths)
        if not len(ends):
            return np.empty(0, np.int64)
        first = np.repeat(self.starts[rows] - (ends - lengths), lengths)
        return np.arange(ends[-1]) + first


Expected = TypeVar("Expected")


def _of_type(value: object, kind: type[Expected]) -> Expected:
    if not isinstance(value, kind):
        raise TypeError(f"the sequences carry {type(value).__name__}, not {kind.__name__}")
    return value


def write_starts(folder: Path) -> None:
    """Write the position at which each sequence begins beside the lengths in `folder`."""
    lengths, before = _mapped(folder / "lengths.npy"), 0
    with (folder / "starts.npy").open("wb") as file:
        write_header(file, np.int64, len(lengths))
        for some in slices(len(lengths)):
            ends = before + np.cumsum(lengths[some], dtype=np.int64)
            file.write((ends - lengths[some]).tobytes())
            before = int(ends[-1])


def _mapped(file: Path) -> NDArray[Any]:
    """Return an array of a file, read when it is used."""
    return np.asarray(np.load(file, mmap_mode="r"))


def load_tokens(folder: Path, pad_token_id: int, digest: str) -> Tokens | None:
    """Return the sequences that `stages.data.tasks.tokenize` wrote to `folder`; None if they are missing or damaged."""
    if not is_whole(folder):
        return None
    try:
        total = (folder / "ids.bin").stat().st_size // 4

        def mapped(name: str, dtype: str, *shape: int) -> NDArray[Any]:
            return np.memmap(folder / f"{name}.bin", dtype, "r", shape=shape) if total else np.empty(shape, dtype)

        return Tokens(
            mapped("ids", "<i4", total),
            _mapped(folder / "lengths.npy"),
            mapped("types", "u1", total) if (folder / "types.bin").exists() else None,
            _payload(folder, mapped, total),
            pad_token_id,
            digest,
            starts=_mapped(folder / "starts.npy"),
            cut=np.load(folder / "cut.npy") if (folder / "cut.npy").exists() else None,
        )
    except (OSError, ValueError):
        return None


def _payload(folder: Path, mapped: Callable[..., NDArray[Any]], total: int) -> Payload:
    """Return the payload of the sequences in `folder`, whose type follows from the files."""

    def has(file: str) -> bool:
        return (folder / file).exists()

    if has("tags.bin"):
        return WordTags(mapped("tags", "<i2", total), mapped("spans", "<i4", total, 2)[:, 0])
    if not has("labels.npy"):
        return Payload()
    labels = np.load(folder / "labels.npy")
    if has("spans.bin"):
        return Windows(labels, np.load(folder / "examples.npy"), mapped("spans", "<i4", total, 2))
    return Choices(labels, np.load(folder / "examples.npy")) if has("examples.npy") else RowLabels(labels)
