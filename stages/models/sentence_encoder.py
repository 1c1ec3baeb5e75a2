"""Sentence encoder: one vector per text, saved in the format of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from schemas.core.errors import DataError
from schemas.core.kinds import Embedding
from stages.models.encoders import load_encoder
from stages.models.tensors import read_tensors

DENSE = "2_Dense"
_TYPES = {
    "": "sentence_transformers.models.Transformer",
    "1_Pooling": "sentence_transformers.models.Pooling",
    DENSE: "sentence_transformers.models.Dense",
}


class SentenceEncoder(nn.Module):
    """An encoder, the pooling of its last states, and optionally a linear map to another width."""

    def __init__(self, encoder: PreTrainedModel, problem: Embedding, dense: nn.Linear | None) -> None:
        super().__init__()
        self.encoder, self.problem, self.dense = encoder, problem, dense

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's config."""
        return self.encoder.config

    @property
    def base_model(self) -> PreTrainedModel:
        """The encoder."""
        return self.encoder

    @property
    def device(self) -> torch.device:
        """The encoder's device."""
        return self.encoder.device

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.dense.out_features if self.dense else int(self.config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's input embeddings."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def forward(self, attention_mask: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        """Return the output of a model with a head; `logits`, (batch, width), are the vectors."""
        output = self.encoder(attention_mask=attention_mask, **inputs)
        vectors = pooled(output.last_hidden_state, attention_mask, self.problem)
        return SequenceClassifierOutput(
            logits=self.dense(vectors) if self.dense else vectors, hidden_states=output.hidden_states
        )

    def save_pretrained(self, folder: Path, **options: Any) -> None:
        """Save to a folder that transformers' AutoModel and sentence-transformers can load."""
        self.encoder.save_pretrained(folder, **options)
        parts = ["", "1_Pooling", *([DENSE] if self.dense else [])]
        modules = [
            {"idx": index, "name": str(index), "path": part, "type": _TYPES[part]} for index, part in enumerate(parts)
        ]
        _write(folder / "modules.json", modules)
        pooling = {
            "word_embedding_dimension": self.config.hidden_size,
            "pooling_mode_cls_token": self.problem.pooling == "first",
            "pooling_mode_mean_tokens": self.problem.pooling == "mean",
        }
        _write(folder / "1_Pooling" / "config.json", pooling)
        if self.dense is not None:
            dense = {
                "in_features": self.dense.in_features,
                "out_features": self.dense.out_features,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
            _write(folder / DENSE / "config.json", dense)
            tensors = {
                f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in self.dense.state_dict().items()
            }
            save_file(tensors, folder / DENSE / "model.safetensors")

    def save_length(self, folder: Path, max_length: int) -> None:
        """Write the longest sequence, and the similarity, beside a saved model for sentence-transformers."""
        _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
        _write(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})


Model = PreTrainedModel | SentenceEncoder
"""Type of students and teachers."""


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def pooled(states: Tensor, attention_mask: Tensor, problem: Embedding) -> Tensor:
    """Return the first token's state, or the mean over real tokens in float32, (batch, width)."""
    if problem.pooling == "first":
        return states[:, 0]
    mask = attention_mask.unsqueeze(-1).to(torch.float32)
    real = torch.where(mask.bool(), states.float(), 0.0)
    return (real * mask).sum(1) / mask.sum(1)


def sentence_encoder(encoder: PreTrainedModel, problem: Embedding, *, width: int | None, seed: int) -> SentenceEncoder:
    """Return a sentence encoder with vectors of `width`, through a new linear layer if the encoder's width differs."""
    hidden_size = int(encoder.config.hidden_size)
    if width is None or width == hidden_size:
        return SentenceEncoder(encoder, problem, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SentenceEncoder(encoder, problem, nn.Linear(hidden_size, width))


def load_sentence_encoder(folder: Path, problem: Embedding) -> SentenceEncoder:
    """Load a saved sentence encoder, or any encoder, with its linear map to another width if it has one."""
    encoder = load_encoder(folder)
    check_dense(folder, encoder.config)
    file = folder / DENSE / "model.safetensors"
    dense = None
    if file.is_file():
        tensors = {name.removeprefix("linear."): tensor for name, tensor in read_tensors(file).items()}
        weight = tensors["weight"]
        dense = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in tensors)
        dense.load_state_dict(tensors)
    model = SentenceEncoder(encoder, problem, dense)
    return model.eval()


def check_dense(folder: Path, config: PretrainedConfig) -> None:
    """Refuse a dense layer that does not fit the encoder, or is more than a linear map.

    Raises:
        DataError: names the mismatch and the files.
    """
    file, described = folder / DENSE / "model.safetensors", folder / DENSE / "config.json"
    if not file.is_file() and not described.is_file():
        return
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {
                name.removeprefix("linear."): tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()
            }
        content = json.loads(described.read_text(encoding="utf-8"))
        outputs, activation = int(content["out_features"]), content["activation_function"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / DENSE} cannot be read ({type(error).__name__}: {error}); fetch the model again"
        ) from None
    wanted = (outputs, int(config.hidden_size))
    if shapes.get("weight") != wanted or shapes.get("bias", wanted[:1]) != wanted[:1]:
        shape = " x ".join(map(str, shapes.get("weight", ()))) or "missing"
        raise DataError(
            f"{file}: linear.weight is {shape}, but {outputs} x {config.hidden_size} by {described} (out_features) and "
            f"the encoder (hidden_size); fetch all files of the same model"
        )
    if not str(activation).endswith(".Identity"):
        raise DataError(
            f"{described}: activation_function is {activation}, but only a linear map is supported; give a model "
            "without 2_Dense, or with Identity"
        )


def vector_width(folder: Path, config: PretrainedConfig) -> int:
    """Return the width of the vectors of a saved model."""
    file = folder / DENSE / "config.json"
    if file.is_file():
        return int(json.loads(file.read_text(encoding="utf-8"))["out_features"])
    return int(config.hidden_size)
