"""Answers of a model to rows, a chunk at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from schemas.results.export import TaskForm
from stages.data.batching.choice_groups import Groups
from stages.export.onnx_file import Inputs
from stages.predictions.answers import answers_of, no_answer
from stages.predictions.encode import Encoder, Sequences
from stages.predictions.readers import Reader
from stages.predictions.rows import Row

_BATCH, _BATCH_TOKENS = 32, 4096
"""Sequences and padded tokens of a batch; larger ones leave the processor's caches, and take more time a row."""


@dataclass
class Predictor:
    """Answers rows, and counts what it did."""

    form: TaskForm
    labels: tuple[str, ...]
    max_length: int
    reader: Reader
    batch: int | None = None
    """Most sequences in a batch; None for what is quick."""
    rows: int = 0
    """Rows so far."""
    cut: int = 0
    """Rows of which part was left out because they were too long."""
    empty: int = 0
    """Rows without text."""
    seconds: float = 0.0
    """Seconds that the answers took, without waiting for rows."""

    def answers(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return an answer for each row, in their order."""
        began = time.perf_counter()
        complete = [row for row in rows if not row.lacks(self.form)]
        found = iter(self._answers(complete) if complete else [])
        answers = [no_answer(self.form) if row.lacks(self.form) else next(found) for row in rows]
        self.rows += len(rows)
        self.empty += len(rows) - len(complete)
        self.seconds += time.perf_counter() - began
        return answers

    def _answers(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        sequences = Encoder(self.reader.tokenizer, self.form, self.max_length).encode(rows)
        self.cut += len(sequences.cut)
        return answers_of(self.form, self.labels, rows, sequences, self._logits(sequences))

    def _logits(self, sequences: Sequences) -> list[NDArray[np.float32]]:
        """Return the outputs for each sequence, read in order of length."""
        logits: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences.encodings)
        lengths = sequences.lengths
        for positions in Groups(lengths, None).cut(np.argsort(lengths, kind="stable"), _BATCH_TOKENS):
            for some in np.array_split(positions, -(-len(positions) // (self.batch or _BATCH))):
                outputs = self.reader.run(self._inputs([sequences.encodings[index] for index in some]))
                for index, output in zip(some.tolist(), outputs, strict=True):
                    logits[index] = output[: lengths[index]] if output.ndim == 2 else output
        return logits

    def _inputs(self, encodings: Sequence[Encoding]) -> Inputs:
        """Return a batch, padded on the right to its longest sequence."""
        shape = len(encodings), max(len(encoding.ids) for encoding in encodings)
        inputs = {
            "input_ids": np.full(shape, self.reader.pad_id, np.int64),
            "attention_mask": np.zeros(shape, np.int64),
        }
        if self.reader.reads_types:
            inputs["token_type_ids"] = np.zeros(shape, np.int64)
        for index, encoding in enumerate(encodings):
            end = len(encoding.ids)
            inputs["input_ids"][index, :end] = encoding.ids
            inputs["attention_mask"][index, :end] = 1
            if self.reader.reads_types:
                inputs["token_type_ids"][index, :end] = encoding.type_ids
        return inputs
