"""16-bit floating-point numbers in an ONNX file: half the size, and on a CPU no faster."""

from __future__ import annotations

from pathlib import Path

from stages.export.onnx_model import silent


def write_fp16(source: Path, to: Path) -> None:
    """Write an ONNX file with weights and arithmetic in float16; inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with silent():
        onnx.save_model(convert_float_to_float16(onnx.load_model(source), keep_io_types=True), to)
