"""The student that answers, and which of its files is read."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from schemas.core.errors import ConfigError
from schemas.results.export import TaskForm
from stages.predictions.readers import Reader, onnx_reader, torch_reader

Precision = Literal["int8", "fp16", "fp32", "torch"]
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Student:
    """A student with a head."""

    name: str
    """As messages call it."""
    folder: Path
    """A transformers folder."""
    form: TaskForm
    labels: tuple[str, ...]
    max_length: int
    files: dict[str, str]
    """ONNX files by their number format."""
    remarks: tuple[str, ...] = ()

    @property
    def why_torch(self) -> str | None:
        """The reason why the weights are read in torch although there are ONNX files; None where they are read."""
        if not self.files or has_onnx_runtime():
            return None
        return (
            "ONNX Runtime is not installed, so the weights are read in torch, which is slower: pip install "
            "'distill-flow[onnx]'"
        )

    def open(self, precision: Precision | None, threads: int) -> tuple[Reader, str]:
        """Return the model, ready to read, and a description of it.

        Args:
            precision: the file; None for 8-bit integers if there are any, else float32, else torch.
            threads: threads of a product.

        Raises:
            ConfigError: there is no such file, or ONNX Runtime is not installed.
            DistillError: it cannot be read.
        """
        chosen = self._chosen(precision)
        if chosen == "torch":
            return torch_reader(self.folder, self.form.problem, threads=threads), f"{self.folder / WEIGHTS} (torch)"
        file = self.folder / self.files[chosen]
        return onnx_reader(self.folder, file, threads=threads), f"{file} ({chosen})"

    def _chosen(self, precision: Precision | None) -> Precision:
        if precision is None:
            onnx: list[Precision] = ["int8", "fp32"] if has_onnx_runtime() else []
            return next((name for name in onnx if name in self.files), "torch")
        if precision == "torch" or precision in self.files:
            return precision
        if precision == "fp32" and not self.files:
            return "torch"
        there = ", ".join((*self.files, "torch"))
        raise ConfigError(
            f"--precision {precision}: {self.folder} has no such file (there are: {there}); give one of them, or "
            "export the student with it: distill export CHECKPOINT --to DIR --int8 dynamic --fp16"
        )


def has_onnx_runtime() -> bool:
    """Return whether ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def precision_of(text: str | None) -> Precision | None:
    """Return the precision of `--precision`; None where it is left out.

    Raises:
        ConfigError: there is no such precision.
    """
    if text is not None and text not in get_args(Precision):
        raise ConfigError(f"--precision {text}: give one of {', '.join(get_args(Precision))}")
    return text  # type: ignore[return-value]


def no_head(name: str, stage: str) -> ConfigError:
    """Return the error for a student that has no head."""
    return ConfigError(
        f"{name} is a student of the stage {stage}, which trains no head, so that it gives hidden states and no "
        "answers: give a student of task_specific, or the run, whose last student is taken"
    )
