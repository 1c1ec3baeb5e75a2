"""Tensors of models, and weights copied out of safetensors files.

safetensors returns views of the mapped file at arbitrary offsets. For rows that are not aligned to the processor's
vectors, matrix products take other code paths and round differently, so that a loaded model would compute other numbers
than the saved one. Truncating the file would also crash a running program with a bus error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return copies of the tensors of a safetensors file.

    Raises:
        SafetensorError: the file is no safetensors file.
    """
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def copy_out(model: PreTrainedModel) -> None:
    """Copy a model's parameters and buffers out of the mapped file they were read from."""
    for tensor in tensors_of(model):
        tensor.data = tensor.data.clone()


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield all parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()
