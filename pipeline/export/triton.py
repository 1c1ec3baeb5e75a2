"""The layout in which NVIDIA's Triton server, and KServe with it, serve an ONNX file."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.results.export import ExportedModel
from stages.export.onnx_file import OnnxModel

_TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
_MOST_ROWS = 64


def write_triton(folder: Path, exported: ExportedModel, name: str) -> None:
    """Write `triton/NAME/config.pbtxt` and `triton/NAME/1/model.onnx`, a link to the export's own file where possible.

    Args:
        folder: the export's folder.
        exported: the model file to serve.
        name: the model's name on the server.
    """
    model = OnnxModel(folder / exported.file)
    to = folder / "triton" / name
    (to / "1").mkdir(parents=True)
    os.link(folder / exported.file, to / "1" / "model.onnx")
    nodes = [("input", model.session.get_inputs()), ("output", model.session.get_outputs())]
    parts = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {_MOST_ROWS}"]
    for field, found in nodes:
        entries = [
            f'  {{ name: "{node.name}" data_type: {_TYPES[node.type]} dims: [ {_dimensions(node.shape)} ] }}'
            for node in found
        ]
        parts.append(f"{field} [\n" + ",\n".join(entries) + "\n]")
    parts.append("dynamic_batching { }")
    (to / "config.pbtxt").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _dimensions(shape: list[int | str]) -> str:
    """Return the dimensions after the batch, -1 for those that vary."""
    return ", ".join(str(size) if isinstance(size, int) else "-1" for size in shape[1:])
