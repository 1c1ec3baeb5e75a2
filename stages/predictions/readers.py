"""Models that read batches: an ONNX file, or a transformers folder in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from schemas.core.errors import DataError
from schemas.core.kinds import TaskKind
from stages.export.onnx_file import Inputs, OnnxModel

Outputs = NDArray[np.float32]
"""(batch, outputs), or (batch, sequence, outputs)."""


@dataclass(frozen=True)
class Reader:
    """A model that is ready to read."""

    tokenizer: Tokenizer
    pad_id: int
    reads_types: bool
    """True if it reads token types."""
    run: Callable[[Inputs], Outputs]


def onnx_reader(folder: Path, file: Path, *, threads: int) -> Reader:
    """Open an ONNX file of an export; neither torch nor transformers is imported.

    Args:
        folder: the export, which has tokenizer.json.
        file: the ONNX file.
        threads: threads of a product.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        DistillError: the file cannot be read.
    """
    model = OnnxModel(file, threads=threads)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library has no class of its own
        raise DataError(f"{folder / 'tokenizer.json'} cannot be read ({error}); export again") from None
    pad_id = (tokenizer.padding or {}).get("pad_id", 0)
    return Reader(tokenizer, pad_id, "token_type_ids" in model.inputs, model.run)


def torch_reader(folder: Path, problem: TaskKind, *, threads: int) -> Reader:
    """Load a model with its head from a transformers folder, in float32.

    Args:
        folder: the model's.
        problem: the kind of its task.
        threads: threads of a product.

    Raises:
        DataError: the folder has no such model.
    """
    import torch

    from stages.device.runtime import Runtime
    from stages.kinds.registry import kind_of
    from stages.models.encoders import load_config, load_tokenizer
    from stages.models.read import head_answer

    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(folder, load_config(folder))
    device = Runtime("fp32").device
    model = kind_of(problem).head.load(folder).eval().to(device)

    @torch.inference_mode()
    def run(inputs: Inputs) -> Outputs:
        answer = head_answer(model(**{name: torch.from_numpy(value).to(device) for name, value in inputs.items()}))
        assert answer is not None
        return np.asarray(answer.float().cpu().numpy())

    fast = tokenizer.backend_tokenizer
    fast.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    return Reader(fast, int(tokenizer.pad_token_id), "token_type_ids" in tokenizer.model_input_names, run)
