"""Processor time in which one core orders an epoch and makes the batches of its steps, from token ids on disk.

    python -m benchmarks.speed.batching

A million sequences of 128 tokens with token types; the processes of a step make their own part of it. The training loop
makes a batch before it starts the step's first operation, so that an accelerator waits meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.output import console, table_of
from schemas.core.training import BatchSize
from stages.data.batching.batches import Batches
from stages.data.batching.payloads import Payload
from stages.data.batching.tokens import Tokens

_LENGTH = 128
_SECONDS = 3.0


def make_tokens(folder: Path, sequences: int) -> Tokens:
    """Return random sequences whose ids and types are read from files."""
    total = sequences * _LENGTH
    ids = np.memmap(folder / "ids", "<i4", "w+", shape=(total,))
    ids[:] = np.random.default_rng(0).integers(1000, 30_000, total, dtype=np.int32)
    types = np.memmap(folder / "types", "u1", "w+", shape=(total,))
    ids.flush()
    types.flush()
    lengths = np.full(sequences, _LENGTH, np.int32)
    starts = np.arange(sequences, dtype=np.int64) * _LENGTH
    return Tokens(ids, lengths, types, Payload(), pad_token_id=0, digest="random", starts=starts)


def measured(tokens: Tokens, rows: int, processes: int) -> tuple[float, float]:
    """Return the processor's seconds of ordering an epoch, and of one process's batches per token of its own."""
    batches = Batches(tokens.lengths, BatchSize(amount=rows, unit="sequences"), microbatch_tokens=8192, seed=0)
    began = time.process_time()
    batches.step(0)
    ordered = time.process_time()
    number = step = 0
    while time.process_time() - ordered < _SECONDS:
        number += sum(tokens.batch(cut).num_tokens for cut in batches.step(step, 0, processes))
        step += 1
    return ordered - began, (time.process_time() - ordered) / number


def main(sequences: Annotated[int, typer.Option(help="Sequences of an epoch.")] = 1_000_000) -> None:
    """Measure ordering and batching."""
    torch.set_num_threads(1)
    table = table_of("rows a step", "processes", "ordering an epoch, s", "ns a token")
    with tempfile.TemporaryDirectory() as folder:
        tokens = make_tokens(Path(folder), sequences)
        for rows in (256, 4096):
            for processes in (1, 8, 64):
                order, token = measured(tokens, rows, processes)
                table.add_row(f"{rows:,}", str(processes), f"{order:.2f}", f"{1e9 * token:.1f}")
    console().print(table)


if __name__ == "__main__":
    typer.run(main)
