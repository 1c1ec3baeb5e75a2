"""Export of a student to an ONNX file, and its answers to batches.

The engine is torch's own exporter. Files name their axes `batch` and `sequence`, hold their weights, and have the
inputs that the student's tokenizer gives and the outputs that its kind of task has in transformers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from schemas.core.errors import ConfigError, DistillError
from stages.data.batching.tokens import Batch, Tokens
from stages.export.onnx_file import NEEDED, Inputs, OnnxModel
from stages.models.attention_capture import CAPTURE
from stages.models.read import reading_batches
from stages.models.sentence_encoder import Model, SentenceEncoder

OPSET = 18
"""Operators of ONNX 1.13 and later, so that old runtimes read the file."""


class Answering(nn.Module):
    """A model with the inputs and outputs of its ONNX file, in their order."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """Return the answers that `outputs_of` names; one is returned as it is, two as a pair."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        answers = tuple(getattr(output, _FIELDS.get(name, name)) for name in outputs_of(self.model))
        return answers if len(answers) > 1 else answers[0]


_FIELDS = {"sentence_embedding": "logits"}


def outputs_of(model: Model) -> tuple[str, ...]:
    """Return the names of a model's answers, as transformers and sentence-transformers name them."""
    if isinstance(model, SentenceEncoder):
        return ("sentence_embedding",)
    if hasattr(model, "qa_outputs"):
        return "start_logits", "end_logits"
    return ("last_hidden_state",) if type(model) is type(model.base_model) else ("logits",)


def export_onnx(model: Model, example: Batch, file: Path, *, opset: int = OPSET) -> None:
    """Write a model as an ONNX file.

    Args:
        model: is put into eval mode, and computes its attention by torch's fused operator from then on.
        example: at least two sequences of different length, so that no axis and no mask is taken to be constant.
        file: is created, with its folder.
        opset: version of the operators.

    Raises:
        ConfigError: the packages for it are not installed.
        DistillError: torch cannot export the model's family.
    """
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(NEEDED) from None
    _use_fused_attention(model)
    inputs = example.model_inputs()
    axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("sequence", min=2, max=_longest(model))}
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with silent(), torch.no_grad():
            program = torch.onnx.export(
                Answering(model).eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes={name: axes for name in inputs},
                input_names=list(inputs),
                output_names=list(outputs_of(model)),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            program.save(str(file), external_data=False)
    except OSError:  # no room, for example
        raise
    except Exception as error:  # a family's code may be anything
        reason = str(error).strip().splitlines()
        raise DistillError(
            f"torch cannot export a {model.config.model_type} model to ONNX: {reason[0] if reason else repr(error)}; "
            "use the checkpoint in torch, or distil to a family that can be exported, such as bert"
        ) from error


def _use_fused_attention(model: Model) -> None:
    encoder: Any = model.base_model
    if getattr(encoder.config, "_attn_implementation", None) == CAPTURE:
        encoder.set_attn_implementation("sdpa")


def _longest(model: Model) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 8192)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep the exporter's progress and hints from the terminal; they name steps of torch's own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def inputs_of(batch: Batch) -> Inputs:
    """Return a batch as the inputs of an ONNX file."""
    return {name: value.numpy() for name, value in batch.model_inputs().items()}


def onnx_logits(model: OnnxModel, tokens: Tokens, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return the answer to each sequence, like `read_rows(…).logits`: (outputs,), or (real tokens, outputs)."""
    answers: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
    for positions, batch in reading_batches(tokens, rows):
        output = model.run(inputs_of(batch))
        mask = batch.attention_mask.bool().numpy()
        for index, position in enumerate(positions):
            answers[position] = output[index][mask[index]] if output.ndim == 3 else output[index]
    return answers


def example_batch(tokens: Tokens, rows: NDArray[np.int64]) -> Batch:
    """Return a batch of some sequences, the first of which is padded, whatever their lengths are."""
    batch = tokens.batch(rows)
    batch.attention_mask[0, -1] = 0
    return batch
