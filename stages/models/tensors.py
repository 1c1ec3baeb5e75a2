"""Weights in memory of their own.

safetensors hands out views of the file it has mapped, each wherever it lies in that file. Matrix products take other
paths, and round differently, when a row does not begin where the processor's vectors do, so a model that was read would
answer otherwise than the one that was saved; and a file cut short under a running program would end it by a bus error.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each copied out of it.

    Raises:
        SafetensorError: the file is not one.
    """
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def copy_out(model: PreTrainedModel) -> None:
    """Move a model's parameters and buffers out of the file they were read from."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
