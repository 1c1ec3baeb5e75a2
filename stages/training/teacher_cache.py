"""A teacher's outputs for all rows of a stage, computed once and read in every epoch.

The teacher runs on batches that do not depend on the order of training, so that a row's cached outputs depend on the
row alone, and a lost or damaged cache is restored bit for bit. Numbers are kept in the format the teacher computed them
in. Every row of every array has a checksum, which is verified before use.
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
from stages.models.attention_capture import Recording
from stages.models.attention_modules import Attention
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Needs, Outputs
from stages.ports.protocols import Ports
from stages.storage.format_versions import CACHE_VERSION

# Padded tokens of one forward pass; not a setting, because the rows of a batch decide how a sum is rounded.
BATCH_TOKENS = 8192
# numpy has no bfloat16, so 16-bit numbers are kept as integers with the same bits.
_INTEGERS: dict[int, tuple[torch.dtype, str]] = {2: (torch.int16, "<i2"), 4: (torch.int32, "<i4")}

_STATES = ("query", "key", "value")

# Filling a cache takes one pass over the rows; a stage that ends early in the second gains nothing.
_EPOCHS_THAT_PAY = 1.5

Read = Callable[[nn.Module, Batch, Needs], Outputs]


@dataclass(frozen=True)
class Part:
    """One cached array: (tokens, width), or (rows, width) for logits."""

    name: str
    width: int
    dtype: torch.dtype

    @property
    def per_row(self) -> bool:
        """True if the array has one line per row rather than per token."""
        return self.name == "logits"

    @property
    def line_bytes(self) -> int:
        """Bytes of one line."""
        return self.width * self.dtype.itemsize


class TeacherCache:
    """Outputs of one teacher for all rows, on disk."""

    def __init__(self, teacher: nn.Module, tokens: Tokens, needs: Needs, read: Read, folder: Path) -> None:
        """Determine the arrays to cache; nothing is written before `fill`.

        Args:
            teacher: the model, in eval mode on its device.
            tokens: the rows of the stage.
            needs: parts of the teacher that are read.
            read: runs a model on a batch.
            folder: parent of the cache's folder, which is named by its digest.
        """
        self.teacher, self.tokens, self.needs, self.run = teacher, tokens, needs, read
        self.device = next(teacher.parameters()).device
        first = tokens.batch(np.arange(1)).to(self.device)
        sample = read(teacher, first, needs)
        self.parts = [Part(name, value.shape[-1], value.dtype) for name, value in _flat(sample, needs, first).items()]
        self.heads = {
            layer: (states.query.shape[1], states.scaling, states.bias)
            for layer, states in sample.recording.attention.items()
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
        """Digest of teacher, rows and arrays; hashes all weights, and is therefore computed only to open files."""
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
        """Folder of the cache."""
        return self.caches / f"teacher-{self.digest[:16]}"

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        lines = {True: len(self.tokens), False: self.tokens.num_tokens}
        return sum(part.line_bytes * lines[part.per_row] for part in self.parts)

    def fill(self, rank: int = 0, world: int = 1) -> Iterator[int]:
        """Open the files and compute missing rows; yields the number of rows done, batch by batch.

        Args:
            rank: number of this process, which computes its share of the batches; in any process, the same bits.
            world: number of processes that fill the files.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self._open()
        for rows in self.batches[rank::world]:
            if not self.sums[rows].all():
                self._compute(rows)
            yield len(rows)

    def read(self, batch: Batch) -> Outputs:
        """Return the teacher's outputs for a batch of `tokens`; damaged rows are computed again first.

        Raises:
            StoreError: rows that were just written cannot be read back.
        """
        assert batch.indices is not None
        lines = self._cached(batch.indices)
        if lines is None:
            for number in np.unique(self.batch_of[batch.indices]):
                self._compute(self.batches[number])
            lines = self._cached(batch.indices)
            if lines is None:
                raise StoreError(
                    f"{self.folder}: data written a moment ago reads back differently; the disk is damaged: "
                    "give another folder with --store"
                )
        device = batch.input_ids.device
        return self._outputs({name: value.to(device) for name, value in lines.items()}, batch)

    def remove(self) -> None:
        """Delete the cache from disk."""
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
        for column, part in enumerate(self.parts):
            bits = flat[part.name].cpu().contiguous().view(_INTEGERS[part.dtype.itemsize][0])
            lines = bits.numpy()
            indices, ends = lines_of[part.per_row]
            self.arrays[part.name][indices] = lines
            self.sums[rows, column] = _checksums(lines, ends)

    def _cached(self, rows: Rows) -> dict[str, Tensor] | None:
        """Cached lines of `rows` by array; None if a checksum does not match."""
        tensors: dict[str, Tensor] = {}
        lines_of = self._lines(rows)
        for column, part in enumerate(self.parts):
            indices, ends = lines_of[part.per_row]
            lines = self.arrays[part.name][indices]
            if (_checksums(lines, ends) != self.sums[rows, column]).any():
                return None
            tensors[part.name] = torch.from_numpy(lines).view(part.dtype)
        return tensors

    def _lines(self, rows: Rows) -> dict[bool, tuple[Rows, Rows]]:
        """Line indices of `rows` and the end of each row among them, by `Part.per_row`."""
        ends = np.cumsum(self.tokens.lengths[rows].astype(np.int64))
        return {True: (rows, np.arange(1, len(rows) + 1)), False: (self.tokens.positions(rows), ends)}

    def _outputs(self, flat: dict[str, Tensor], batch: Batch) -> Outputs:
        mask = batch.attention_mask.bool()

        def padded(lines: Tensor) -> Tensor:
            states = lines.new_zeros(*mask.shape, lines.shape[-1])
            states[mask] = lines
            return states

        hidden = {number: padded(flat[f"hidden_{number}"]) for number in sorted(self.needs.hidden)}
        attention, empty = {}, torch.empty(0, device=mask.device)
        for layer, (heads, scaling, bias) in self.heads.items():
            read = {
                name: padded(flat[f"{name}_{layer}"]).unflatten(-1, (heads, -1)).transpose(1, 2)
                for name in self.needs.states
            }
            query, key, value = (read.get(name, empty) for name in _STATES)
            attention[layer] = Attention(query, key, value, scaling, bias)
        logits = flat.get("logits")
        if "token_logits" in flat:
            logits = padded(flat["token_logits"])
        return Outputs(hidden, Recording(self.needs.attention, attention), logits)


def _checksums(lines: NDArray[np.integer], ends: Rows) -> NDArray[np.uint32]:
    """One checksum per row; never 0, which marks a missing row."""
    pieces = np.split(lines, ends[:-1])
    return np.array([zlib.crc32(piece.tobytes()) or 1 for piece in pieces], np.uint32)


def pays(batches: Batches, num_steps: int) -> bool:
    """Return whether a stage of `num_steps` reads the rows often enough for a cache to pay off."""
    return num_steps >= _EPOCHS_THAT_PAY * batches.steps_in_epoch(0)


def room_for(needs: Needs, config: PretrainedConfig, tokens: Tokens, *, num_outputs: int, number_bytes: int) -> int:
    """Return the bytes that one teacher's cache will take, from its config alone."""
    states = len(needs.hidden) + len(needs.states) * len(needs.attention)
    numbers = states * config.hidden_size * tokens.num_tokens
    lines = tokens.num_tokens if tokens.payload.answers_tokens else len(tokens)
    return number_bytes * (numbers + needs.logits * num_outputs * lines)


def filled_caches(
    teachers: Sequence[nn.Module],
    tokens: Tokens,
    objective: ObjectiveTerms,
    read: Read,
    ports: Ports,
    *,
    description: str,
) -> list[TeacherCache]:
    """Return a full cache for each teacher; none if rows change between epochs or the caches do not fit.

    Raises:
        Interrupted: a stop was requested; rows computed so far are kept.
    """
    needs = [objective.teacher_needs(index) for index in range(len(teachers))]
    if not ports.teacher_cache_bytes or objective.changes_rows or Needs() in needs or not needs:
        return []
    caches = [
        TeacherCache(teacher, tokens, parts, read, ports.cache) for teacher, parts in zip(teachers, needs, strict=True)
    ]
    size, limit = sum(cache.num_bytes for cache in caches), ports.teacher_cache_bytes
    if size > limit:
        ports.progress.note(
            f"{description}: the teacher's outputs would take {size / 1e9:.1f} GB and "
            f"execution.teacher_cache_gigabytes allows {limit / 1e9:.1f}: the teacher runs in every epoch"
        )
        return []
    stopped, error = _fill(caches, ports, description)
    # No process reads before all have written.
    any_stopped, failed = ports.world.summed([stopped, bool(error)])
    if failed:
        ports.progress.note(
            f"{description}: no room for {size / 1e9:.1f} GB of the teacher's outputs in {ports.cache} "
            f"({error or 'in another process'}): the teacher runs in every epoch"
        )
        for cache in caches:
            cache.remove()
        return []
    if any_stopped:
        raise Interrupted(f"stopped while {description}'s teacher ran; its outputs so far are kept")
    return caches


def _fill(caches: Sequence[TeacherCache], ports: Ports, description: str) -> tuple[bool, str]:
    """Compute this process's batches; return whether a stop was requested, and the disk's error, empty without one."""
    world = ports.world
    fills = [cache.fill(world.local_rank, world.local_size) for cache in caches]
    ports.progress.start(f"{description}, teacher", sum(len(cache.batches) for cache in caches) // world.local_size)
    try:
        for done, _ in enumerate(chain.from_iterable(fills), start=1):
            ports.progress.advance(done, {})
            if ports.stop_requested():
                return True, ""
    except OSError as problem:
        return False, str(problem.strerror)
    return False, ""


def _flat(outputs: Outputs, needs: Needs, batch: Batch) -> dict[str, Tensor]:
    """Cached arrays of a forward pass: one line per real token, or per row for logits of rows."""
    mask = batch.attention_mask.bool()
    flat = {f"hidden_{number}": states[mask] for number, states in sorted(outputs.hidden.items())}
    for layer in sorted(needs.attention):
        states = outputs.recording.attention[layer]
        for name in sorted(needs.states):
            flat[f"{name}_{layer}"] = getattr(states, name).transpose(1, 2).flatten(2)[mask]
    if needs.logits and outputs.logits is not None:
        if outputs.logits.ndim == 3:
            flat["token_logits"] = outputs.logits[mask]
        else:
            flat["logits"] = outputs.logits
    return flat


def _mapped(file: Path, dtype: str, shape: tuple[int, int]) -> NDArray[np.integer]:
    """Map a file as a writable array, with its full size allocated; existing content stays."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Allocated now: on a full disk, writing to a mapped hole would crash the process with a bus error.
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
