"""Writes the model files of an export, each checked on real texts before it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.export.subject import Subject
from schemas.core.errors import DistillError
from schemas.results.export import ExportedModel, NumberFormat
from stages.data.batching.tokens import Tokens
from stages.export.agreement import Agreement, agreement, differences
from stages.export.half_precision import write_fp16
from stages.export.int8 import Mode, Variant, quantize, variants
from stages.export.onnx_file import Inputs, OnnxModel
from stages.export.onnx_model import example_batch, export_onnx, inputs_of, onnx_logits

FP32, FP16, INT8 = "onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx"
"""Names by which transformers.js, sentence-transformers and servers look for the files."""
_MOST_DIFFERENCE = 1e-4
"""Largest difference that a file in float32 may have: other products are sums in another order."""
_CALIBRATION_ROWS, _TOGETHER = 128, 16
_BATCH_ROWS = 64


@dataclass(frozen=True)
class ModelWriter:
    """Exports one checkpoint into a folder."""

    subject: Subject
    folder: Path

    def fp32(self, opset: int) -> ExportedModel:
        """Write the file in float32.

        Raises:
            DistillError: torch cannot export the model, or the file answers differently.
        """
        tokens = self.subject.other
        example = example_batch(tokens, self.subject.other_sequences[:3])
        export_onnx(self.subject.model, example, self.folder / FP32, opset=opset)
        exported = self._checked(FP32, "fp32")
        if exported.largest_difference > _MOST_DIFFERENCE or exported.batch_difference > _MOST_DIFFERENCE:
            raise DistillError(
                f"the ONNX file of {self.subject.manifest.stage} answers differently from the checkpoint: by up to "
                f"{exported.largest_difference:.1g}, and by {exported.batch_difference:.1g} in another batch (at most "
                f"{_MOST_DIFFERENCE:g} is rounding), so nothing was written; use the checkpoint in torch, and report "
                "the model's family"
            )
        return exported

    def fp16(self) -> ExportedModel:
        """Write the file in 16-bit floating-point numbers, with inputs and outputs as before."""
        write_fp16(self.folder / FP32, self.folder / FP16)
        return self._checked(FP16, "fp16")

    def int8(self, mode: Mode, *, most_loss: float) -> ExportedModel:
        """Write the file in 8-bit integers, by the variant that loses least on texts of training.

        Args:
            mode: how ranges of activations are found.
            most_loss: largest loss of the main score, in points.

        Raises:
            DistillError: the score on the checked texts falls by more.
        """
        best = self._write_best(mode, self.folder / INT8)
        exported = self._checked(INT8, "int8", best.name)
        lost = exported.minus_checkpoint
        if lost is not None and -100 * lost.value > most_loss:
            raise DistillError(
                f"8-bit integers cost {-100 * lost.value:.1f} points of {self.subject.metric} on {exported.rows:,} "
                f"texts (95 % interval {-100 * lost.high:.1f} to {-100 * lost.low:.1f}), more than {most_loss:g}, so "
                "nothing was written: leave out --int8, try the other mode, or accept the loss with --most-loss"
            )
        return exported

    def _write_best(self, mode: Mode, to: Path) -> Variant:
        """Try all variants, and keep the file of the one whose outputs differ least; return it."""
        tokens, rows = self.subject.other, self.subject.other_sequences
        expected = self.subject.outputs(tokens, rows)
        losses: dict[Variant, float] = {}
        for variant in variants(mode):
            tried = to.with_name("tried.onnx")
            quantize(self.folder / FP32, tried, variant, _batches(tokens, rows[:_CALIBRATION_ROWS]))
            loss = differences(expected, onnx_logits(OnnxModel(tried), tokens, rows))[1]
            if loss < min(losses.values(), default=math.inf):
                tried.replace(to)
            losses[variant] = loss
        to.with_name("tried.onnx").unlink(missing_ok=True)
        return min(losses, key=losses.__getitem__)

    def _checked(self, name: str, number_format: NumberFormat, variant: str | None = None) -> ExportedModel:
        subject, file = self.subject, self.folder / name
        model = OnnxModel(file)
        found: Agreement = agreement(
            subject.expected, onnx_logits(model, subject.checked, subject.sequences), subject.scorer, subject.metric
        )
        return ExportedModel(
            file=name,
            number_format=number_format,
            variant=variant,
            size=file.stat().st_size,
            rows=found.rows,
            largest_difference=found.largest,
            mean_difference=found.mean,
            batch_difference=_batch_difference(model, subject.checked, subject.sequences[:_BATCH_ROWS]),
            same_answers=found.same,
            score=found.score,
            minus_checkpoint=found.minus_checkpoint,
        )


def _batches(tokens: Tokens, rows: NDArray[np.int64]) -> Iterator[Inputs]:
    for start in range(0, len(rows), _TOGETHER):
        batch = tokens.batch(rows[start : start + _TOGETHER])
        yield inputs_of(batch)


def _batch_difference(model: OnnxModel, tokens: Tokens, rows: NDArray[np.int64]) -> float:
    """Return the largest difference of an output in a batch of 16, with its padding, from the same text alone."""
    largest = 0.0
    for start in range(0, len(rows), _TOGETHER):
        together = rows[start : start + _TOGETHER]
        answers = [onnx_logits(model, tokens, row[None])[0] for row in together]
        batch = tokens.batch(together)
        outputs = model.run(inputs_of(batch))
        mask = batch.attention_mask.bool().numpy()
        for answer, output, real in zip(answers, outputs, mask, strict=True):
            beside = output[real] if outputs.ndim == 3 else output
            largest = max(largest, float(np.abs(beside - answer).max()))
    return largest
