"""What a teacher says about every row of a task, computed once and read again in each epoch.

The rows are given to the teacher in batches of their own, always the same, whatever order a stage learns them in. So
what is kept of a row depends on the row alone, and a cache that was lost or damaged comes back bit for bit. Numbers are
kept in the format the teacher computed them in. Every row of every array has a checksum, looked at before it is used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig

from schemas.core.base import digest_of
from schemas.core.errors import Interrupted, StoreError
from stages.data.batching.batches import Batches, evaluation_batches
from stages.data.batching.choice_groups import Rows
from stages.data.batching.tokens import Batch, Tokens
from stages.models.attention_capture import Attention, Recording
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Needs, Outputs
from stages.ports.protocols import Ports
from stages.storage.format_versions import CACHE_VERSION

# Padded tokens of one forward pass; not a setting, because the rows that stand together decide how a sum is rounded.
BATCH_TOKENS = 8192
# numpy has no bfloat16, so 16-bit numbers are kept as the integers with the same bits.
_INTEGERS: dict[int, tuple[torch.dtype, str]] = {2: (torch.int16, "<i2"), 4: (torch.int32, "<i4")}

_STATES = ("query", "key", "value")

# One pass over the rows fills a cache; a stage that ends within the second one gains nothing by it.
_EPOCHS_THAT_PAY = 1.5

Read = Callable[[nn.Module, Batch, Needs], Outputs]


@dataclass(frozen=True)
class Part:
    """One kept array: (tokens, width), or (rows, width) for the head's answers."""

    name: str
    width: int
    dtype: torch.dtype

    @property
    def per_row(self) -> bool:
        """Whether it has a line for each row rather than for each token."""
        return self.name == "logits"

    @property
    def line_bytes(self) -> int:
        """Bytes of one token, or of one row."""
        return self.width * self.dtype.itemsize


class TeacherCache:
    """One teacher's outputs for all rows, on disk."""

    def __init__(self, teacher: nn.Module, tokens: Tokens, needs: Needs, read: Read, folder: Path) -> None:
        """Find out what would be kept; nothing is written before `fill`.

        Args:
            teacher: the model, as it is run.
            tokens: the rows of the stage.
            needs: what is read of the teacher.
            read: runs a model on a batch.
            folder: a folder for caches; this one gets a folder of its own in it, named by what it is made of.
        """
        self.teacher, self.tokens, self.needs, self.run = teacher, tokens, needs, read
        self.device = next(teacher.parameters()).device
        first = tokens.batch(np.arange(1)).to(self.device)
        sample = read(teacher, first, needs)
        self.parts = [Part(name, value.shape[-1], value.dtype) for name, value in _flat(sample, needs, first).items()]
        self.heads = {
            layer: (noted.query.shape[1], noted.scaling) for layer, noted in sample.recording.attention.items()
        }
        self.caches = folder
        self.batches = evaluation_batches(tokens.lengths, BATCH_TOKENS)
        self.batch_of = np.empty(len(tokens), np.int64)
        for number, rows in enumerate(self.batches):
            self.batch_of[rows] = number
        self.arrays: dict[str, NDArray[np.integer]] = {}
        self.sums: NDArray[np.integer] = np.empty((0, 0), np.uint32)

    @cached_property
    def digest(self) -> str:
        """What it is made of; the teacher's weights are read for it, so it is asked for only when files are opened."""
        return digest_of(
            {
                "version": CACHE_VERSION,
                "teacher": tensors_digest(self.teacher),
                "rows": self.tokens.digest,
                "parts": [[part.name, part.width, str(part.dtype)] for part in self.parts],
            }
        )

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.caches / f"teacher-{self.digest[:16]}"

    @property
    def num_bytes(self) -> int:
        """What it takes on disk."""
        lines = {True: len(self.tokens), False: self.tokens.num_tokens}
        return sum(part.line_bytes * lines[part.per_row] for part in self.parts)

    def fill(self) -> Iterator[int]:
        """Open the files, and compute what is not there yet; yields the rows that are done, a batch at a time.

        Raises:
            OSError: there is no room, or the folder cannot be written.
        """
        self._open()
        for rows in self.batches:
            if not self.sums[rows].all():
                self._compute(rows)
            yield len(rows)

    def read(self, batch: Batch) -> Outputs:
        """What the teacher says about a batch of `tokens`; a damaged row is computed anew before it is used."""
        assert batch.indices is not None
        found = self._taken(batch.indices)
        if found is None:
            for number in np.unique(self.batch_of[batch.indices]):
                self._compute(self.batches[number])
            found = self._taken(batch.indices)
            if found is None:
                raise StoreError(
                    f"{self.folder}: what was just written there reads back as something else; the disk is damaged: "
                    "give another folder with --store"
                )
        device = batch.input_ids.device
        return self._outputs({name: value.to(device) for name, value in found.items()}, batch)

    def remove(self) -> None:
        """Give the room back."""
        self.arrays.clear()
        self.sums = np.empty((0, 0), np.uint32)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.parts:
            lines = len(self.tokens) if part.per_row else self.tokens.num_tokens
            dtype = _INTEGERS[part.dtype.itemsize][1]
            file = self.folder / f"{part.name}.bin"
            self.arrays[part.name] = _mapped(file, dtype, (lines, part.width))
        self.sums = _mapped(self.folder / "checksums.bin", "<u4", (len(self.tokens), len(self.parts)))

    def _compute(self, rows: Rows) -> None:
        batch = self.tokens.batch(rows).to(self.device)
        flat = _flat(self.run(self.teacher, batch, self.needs), self.needs, batch)
        lines_of = self._lines(rows)
        for place, part in enumerate(self.parts):
            bits = flat[part.name].cpu().contiguous().view(_INTEGERS[part.dtype.itemsize][0])
            lines = bits.numpy()
            where, ends = lines_of[part.per_row]
            self.arrays[part.name][where] = lines
            self.sums[rows, place] = _checksums(lines, ends)

    def _taken(self, rows: Rows) -> dict[str, Tensor] | None:
        """The kept lines of `rows`; None where one of them is not what was written."""
        found: dict[str, Tensor] = {}
        lines_of = self._lines(rows)
        for place, part in enumerate(self.parts):
            where, ends = lines_of[part.per_row]
            lines = self.arrays[part.name][where]
            if (_checksums(lines, ends) != self.sums[rows, place]).any():
                return None
            found[part.name] = torch.from_numpy(lines).view(part.dtype)
        return found

    def _lines(self, rows: Rows) -> dict[bool, tuple[Rows, Rows]]:
        """Which lines of an array are those of `rows`, and where each row of them ends; by whether it has one a row."""
        ends = np.cumsum(self.tokens.lengths[rows].astype(np.int64))
        return {True: (rows, np.arange(1, len(rows) + 1)), False: (self.tokens.positions(rows), ends)}

    def _outputs(self, flat: dict[str, Tensor], batch: Batch) -> Outputs:
        mask = batch.attention_mask.bool()

        def padded(lines: Tensor) -> Tensor:
            states = lines.new_zeros(*mask.shape, lines.shape[-1])
            states[mask] = lines
            return states

        hidden = {place: padded(flat[f"hidden_{place}"]) for place in sorted(self.needs.hidden)}
        attention, nothing = {}, torch.empty(0, device=mask.device)
        for layer, (heads, scaling) in self.heads.items():
            read = {
                name: padded(flat[f"{name}_{layer}"]).unflatten(-1, (heads, -1)).transpose(1, 2)
                for name in self.needs.states
            }
            query, key, value = (read.get(name, nothing) for name in _STATES)
            attention[layer] = Attention(query, key, value, scaling)
        logits = flat.get("logits")
        if "token_logits" in flat:
            logits = padded(flat["token_logits"])
        return Outputs(hidden, Recording(self.needs.attention, attention), logits)


def _checksums(lines: NDArray[np.integer], ends: Rows) -> NDArray[np.uint32]:
    """One for each row; never 0, which stands for a row that is not there."""
    pieces = np.split(lines, ends[:-1])
    return np.array([zlib.crc32(piece.tobytes()) or 1 for piece in pieces], np.uint32)


def pays(batches: Batches, num_steps: int) -> bool:
    """Whether a stage of so many steps asks often enough."""
    return num_steps >= _EPOCHS_THAT_PAY * batches.steps_in_epoch(0)


def room_for(needs: Needs, config: PretrainedConfig, tokens: Tokens, *, num_outputs: int, number_bytes: int) -> int:
    """Bytes that one teacher's answers will take, told from its config alone."""
    states = len(needs.hidden) + len(needs.states) * len(needs.attention)
    numbers = states * config.hidden_size * tokens.num_tokens
    answers = tokens.num_tokens if tokens.payload.answers_tokens else len(tokens)
    return number_bytes * (numbers + needs.logits * num_outputs * answers)


def filled_caches(
    teachers: Sequence[nn.Module],
    tokens: Tokens,
    objective: ObjectiveTerms,
    read: Read,
    ports: Ports,
    *,
    description: str,
) -> list[TeacherCache]:
    """A full cache for each teacher; none where the rows change from step to step, or where there is no room.

    Raises:
        Interrupted: somebody asked to stop; what was computed so far is kept.
    """
    needs = [objective.teacher_needs(index) for index in range(len(teachers))]
    if not ports.teacher_cache_bytes or objective.changes_rows or Needs() in needs or not needs:
        return []
    caches = [
        TeacherCache(teacher, tokens, each, read, ports.cache) for teacher, each in zip(teachers, needs, strict=True)
    ]
    size, limit = sum(cache.num_bytes for cache in caches), ports.teacher_cache_bytes
    if size > limit:
        ports.progress.note(
            f"{description}: the teacher's answers would take {size / 1e9:.1f} GB and "
            f"execution.teacher_cache_gigabytes allows {limit / 1e9:.1f}: it is asked anew in every epoch"
        )
        return []
    ports.progress.start(f"{description}, teacher", sum(len(cache.batches) for cache in caches))
    try:
        for done, _ in enumerate(chain.from_iterable(cache.fill() for cache in caches), start=1):
            ports.progress.advance(done, {})
            if ports.stop_requested():
                raise Interrupted(f"stopped while {description}'s teacher was asked; answers kept")
    except OSError as error:
        ports.progress.note(
            f"{description}: no room for {size / 1e9:.1f} GB of the teacher's answers in {ports.cache} "
            f"({error.strerror}): it is asked anew in every epoch"
        )
        for cache in caches:
            cache.remove()
        return []
    return caches


def _flat(outputs: Outputs, needs: Needs, batch: Batch) -> dict[str, Tensor]:
    """What is kept of a forward pass, a line for each real token or, for the answers, for each row."""
    mask = batch.attention_mask.bool()
    flat = {f"hidden_{place}": states[mask] for place, states in sorted(outputs.hidden.items())}
    for layer in sorted(needs.attention):
        noted = outputs.recording.attention[layer]
        for name in sorted(needs.states):
            flat[f"{name}_{layer}"] = getattr(noted, name).transpose(1, 2).flatten(2)[mask]
    if needs.logits and outputs.logits is not None:
        if outputs.logits.ndim == 3:
            flat["token_logits"] = outputs.logits[mask]
        else:
            flat["logits"] = outputs.logits
    return flat


def _mapped(file: Path, dtype: str, shape: tuple[int, int]) -> NDArray[np.integer]:
    """A writable array on a file that has all its room; what the file had stays."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Asked for now: on a full disk, writing to a mapped hole would end the process with a bus error.
        os.posix_fallocate(handle, 0, size)
        os.ftruncate(handle, size)
    finally:
        os.close(handle)
    return np.memmap(file, dtype, "r+", shape=shape)


def tensors_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's tensors in memory, with their names and formats."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
