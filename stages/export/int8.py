"""8-bit integers in an ONNX file: weights and word table in 8 bits, products of inputs that are quantised on the way.

`dynamic` finds each input's range anew in every pass, `static` once, from texts of the task. Attention's products of
two activations, softmax and normalisation stay in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.export.onnx_file import Inputs
from stages.export.onnx_model import silent

Mode = Literal["dynamic", "static"]
# Without Gather the word table, two thirds of a small student, would stay in float32.
_OPERATORS = ["MatMul", "Gemm", "Gather"]


@dataclass(frozen=True)
class Variant:
    """A way to quantise; which one loses least differs between models and processors."""

    mode: Mode
    per_channel: bool
    """True for a scale per output of a weight matrix, False for one per matrix."""
    reduce_range: bool
    """True for weights of 7 bits: without VNNI instructions sums of two products in 8 bits overflow 16 bits."""

    @property
    def name(self) -> str:
        """Short description for tables."""
        scales = "per channel" if self.per_channel else "per tensor"
        return f"{self.mode}, {scales}{', 7-bit weights' if self.reduce_range else ''}"


def variants(mode: Mode) -> list[Variant]:
    """Return the variants of a mode, those that lost least in trials first."""
    return [Variant(mode, per_channel, reduce) for per_channel in (True, False) for reduce in (True, False)]


def quantize(source: Path, to: Path, variant: Variant, texts: Iterable[Inputs]) -> None:
    """Write an ONNX file in 8 bits.

    Args:
        source: the file in float32.
        to: is created.
        variant: how.
        texts: batches that static ranges are found on; not read for dynamic ones.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    options: dict[str, Any] = {
        "op_types_to_quantize": _OPERATORS,
        "per_channel": variant.per_channel,
        "reduce_range": variant.reduce_range,
        "weight_type": QuantType.QInt8,
    }
    with silent(), tempfile.TemporaryDirectory() as scratch:
        prepared = _with_shapes(source, Path(scratch) / "prepared.onnx")
        if variant.mode == "dynamic":
            quantize_dynamic(prepared, to, **options)
        else:
            quantize_static(prepared, to, _reader(texts), quant_format=QuantFormat.QDQ, **options)


def _with_shapes(source: Path, to: Path) -> Path:
    """Write the file with inferred shapes, which the quantiser reads."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, to, skip_symbolic_shape=True)
    return to


def _reader(texts: Iterable[Inputs]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Inputs] = iter(texts)

        def get_next(self) -> Inputs | None:
            return next(self.left, None)

    return Reader()
