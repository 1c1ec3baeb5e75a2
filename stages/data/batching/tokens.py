"""Token ids in flat arrays on disk, and the padded batches that are cut out of them.

A batch is cut out of one long memory-mapped array, without a Python object per row or token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.core.base import digest_of
from stages.data.batching.mixture import Mixture
from stages.storage.mapped_columns import slices, write_header
from stages.storage.sealed_folder import is_whole

NO_WORD, NOT_LABELLED = -100, -1
"""Labels of a token that stands for no word, and of one that does but has no label."""


@dataclass(frozen=True)
class Batch:
    """Padded sequences, padding on the right.

    input_ids       (batch, seq)  int64
    attention_mask  (batch, seq)  int64, 1 for real tokens
    token_type_ids  (batch, seq)  int64; None when the tokenizer makes none
    labels          by the kind of task: (batch,) int64 classes, 1 for a right choice and 0 for others, or float32
                    values; (batch, labels) float32, 1 where a row has the label; (batch, seq) int64 tags of words;
                    (batch, 2) int64 first and last token of a span; (batch, 2) float32 of several tasks, as
                    `Tokens.joined` says. -1 or NaN where a row has none; None for text without labels
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    labels: Tensor | None
    num_tokens: int
    """Real tokens, padding excluded."""
    choice_of: Tensor | None = None
    """(batch,) int64, the row that a sequence is a choice of, counted from 0 within the batch; None without choices."""
    word_labels: Tensor | None = None
    """(batch, seq) int64, the word that was masked, -100 where none is to be predicted; None unless words are."""
    indices: NDArray[np.int64] | None = None
    """(batch,) which rows of the text it holds; None where it was made by hand."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            token_type_ids=moved(self.token_type_ids),
            labels=moved(self.labels),
            choice_of=moved(self.choice_of),
            word_labels=moved(self.word_labels),
        )

    def lengths(self) -> list[int]:
        """Real tokens of each sequence."""
        lengths: list[int] = self.attention_mask.sum(-1).tolist()
        return lengths

    def first(self, number: int) -> Batch:
        """Its first sequences, with the padding they had; the choices of a row stay together."""
        if self.choice_of is not None:
            ends = torch.unique_consecutive(self.choice_of, return_counts=True)[1].cumsum(0)
            number = int(ends[torch.clamp((ends <= number).sum() - 1, min=0)])
        return self.rows(slice(number))

    def rows(self, chosen: slice) -> Batch:
        """Some of its sequences, with the padding they had."""
        mask = self.attention_mask[chosen]

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen]

        return replace(
            self,
            input_ids=self.input_ids[chosen],
            attention_mask=mask,
            token_type_ids=cut(self.token_type_ids),
            labels=cut(self.labels),
            choice_of=cut(self.choice_of),
            word_labels=cut(self.word_labels),
            num_tokens=int(mask.sum()),
            indices=None if self.indices is None else self.indices[chosen],
        )

    def model_inputs(self) -> dict[str, Tensor]:
        """What a transformers model is called with, labels excluded."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else {**inputs, "token_type_ids": self.token_type_ids}


@dataclass(frozen=True)
class Tokens:
    """Tokenised sequences, memory-mapped.

    ids      (tokens,)     int32, all sequences one after the other, special tokens included
    lengths  (sequences,)  int32, real tokens of each
    types    (tokens,)     uint8 token types; None when the tokenizer makes none
    labels   (sequences, …)  as in `Batch`, tags excepted; None for text without labels
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
    tags: NDArray[np.int16] | None = None
    """(tokens,) labels of words, at the pieces that stand for them; None where words have none."""
    examples: NDArray[np.int64] | None = None
    """(sequences,) which row of the data a sequence is a window or a choice of; None where each is a row's."""
    cut: NDArray[np.bool_] | None = None
    """(sequences,) whether `max_length` left something of a row out; None where that is not known."""
    spans: NDArray[np.int32] | None = None
    """(tokens, 2) characters of the context that a token covers, -1 outside it; None where no span is asked for."""
    mixture: Mixture | None = None
    """Where each source's sequences are, and its share of the training tokens; None where each is learned alike."""

    def __len__(self) -> int:
        """How many sequences."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Real tokens of all sequences."""
        return len(self.ids)

    @property
    def choice_of(self) -> NDArray[np.int64] | None:
        """(sequences,) the row that a sequence is a choice of; None where sequences are no choices.

        Windows of a context are learned each by itself, choices only beside each other.
        """
        return self.examples if self.spans is None else None

    @classmethod
    def joined(cls, parts: Sequence[Tokens], num_outputs: Sequence[int]) -> Tokens:
        """The sequences of several labelled tasks one after the other, the outputs of their heads numbered on.

        A label is then (output, value): the class among all classes and 0, or the one output of a task of values and
        the value; NaN where a row has none.

        Args:
            parts: the tasks, of classes or of values.
            num_outputs: of each task's head; the only one of a task is a value.
        """
        labels, first = [], 0
        for part, number in zip(parts, num_outputs, strict=True):
            assert part.labels is not None
            own = np.zeros((len(part), 2), np.float32)
            own[:, 0] = first if number == 1 else part.labels + first
            own[:, 1] = part.labels if number == 1 else 0
            own[np.isnan(part.labels) if number == 1 else part.labels < 0] = np.nan
            labels.append(own)
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
            cut=None if self.cut is None else self.cut[:number],
            tags=None if self.tags is None else self.tags[:end],
            examples=None if self.examples is None else self.examples[:number],
            spans=None if self.spans is None else self.spans[:end],
            mixture=None,
        )

    def selected(self, rows: NDArray[np.int64]) -> Tokens:
        """Some of the sequences, in the order of `rows`."""
        lengths, places = self.lengths[rows], self.places(rows)

        def taken(array: NDArray[Any] | None, which: NDArray[np.int64]) -> NDArray[Any] | None:
            return None if array is None else np.asarray(array[which])

        return replace(
            self,
            ids=np.asarray(self.ids[places]),
            lengths=lengths,
            types=taken(self.types, places),
            labels=taken(self.labels, rows),
            digest=digest_of({"rows": rows.tolist(), "of": self.digest}),
            starts=np.cumsum(lengths, dtype=np.int64) - lengths,
            tags=taken(self.tags, places),
            examples=taken(self.examples, rows),
            cut=taken(self.cut, rows),
            spans=taken(self.spans, places),
            mixture=None,
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
            labels=self._labels(indices, is_real, taken),
            num_tokens=int(lengths.sum()),
            choice_of=None if self.choice_of is None else _numbered(self.choice_of[indices]),
            indices=indices,
        )

    def _labels(
        self, indices: NDArray[np.int64], is_real: NDArray[np.bool_], taken: NDArray[np.int64]
    ) -> Tensor | None:
        if self.tags is not None:
            tags = np.full(is_real.shape, NO_WORD, dtype=np.int64)
            tags[is_real] = self.tags[taken]
            return torch.from_numpy(tags)
        return None if self.labels is None else torch.from_numpy(self.labels[indices])

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in `ids` the tokens of some sequences are, one sequence after the other."""
        lengths = self.lengths[rows].astype(np.int64)
        ends = np.cumsum(lengths)
        if not len(ends):
            return np.empty(0, np.int64)
        first = np.repeat(self.starts[rows] - (ends - lengths), lengths)
        return np.arange(ends[-1]) + first


def _numbered(rows: NDArray[np.int64]) -> Tensor:
    """The rows by their order in a batch."""
    return torch.from_numpy(np.cumsum(np.diff(rows, prepend=rows[:1]) != 0))


def write_starts(folder: Path) -> None:
    """Write where each sequence begins beside the lengths that are there already."""
    lengths, before = _mapped(folder / "lengths.npy"), 0
    with (folder / "starts.npy").open("wb") as file:
        write_header(file, np.int64, len(lengths))
        for some in slices(len(lengths)):
            ends = before + np.cumsum(lengths[some], dtype=np.int64)
            file.write((ends - lengths[some]).tobytes())
            before = int(ends[-1])


def _mapped(file: Path) -> NDArray[Any]:
    """An array of a file, read when it is looked at."""
    return np.asarray(np.load(file, mmap_mode="r"))


def load_tokens(folder: Path, pad_token_id: int, digest: str) -> Tokens | None:
    """What `stages.data.tasks.tokenize` left in `folder`; None when it is not there, or no longer as it was."""
    if not is_whole(folder):
        return None
    try:
        lengths, starts = (_mapped(folder / f"{name}.npy") for name in ("lengths", "starts"))
        total = (folder / "ids.bin").stat().st_size // 4

        def mapped(name: str, dtype: str, *shape: int) -> NDArray[Any] | None:
            file = folder / f"{name}.bin"
            if not file.exists():
                return None
            return np.memmap(file, dtype, "r", shape=shape) if total else np.empty(shape, dtype)

        def read(name: str) -> NDArray[Any] | None:
            file = folder / f"{name}.npy"
            return np.load(file) if file.exists() else None

        ids = mapped("ids", "<i4", total)
        assert ids is not None
        return Tokens(
            ids,
            lengths,
            mapped("types", "u1", total),
            read("labels"),
            pad_token_id,
            digest,
            starts=starts,
            cut=read("cut"),
            tags=mapped("tags", "<i2", total),
            examples=read("examples"),
            spans=mapped("spans", "<i4", total, 2),
        )
    except (OSError, ValueError):
        return None
