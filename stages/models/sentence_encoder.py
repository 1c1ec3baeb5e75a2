"""An encoder whose answer is one vector for a text, kept the way sentence-transformers keeps its models."""

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
    """An encoder, the pooling of its last states, and a map to another width where one is needed."""

    def __init__(self, encoder: PreTrainedModel, problem: Embedding, dense: nn.Linear | None) -> None:
        super().__init__()
        self.encoder, self.problem, self.dense = encoder, problem, dense

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's."""
        return self.encoder.config

    @property
    def base_model(self) -> PreTrainedModel:
        """The encoder."""
        return self.encoder

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.encoder.device

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self.dense.out_features if self.dense else int(self.config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def forward(self, attention_mask: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        """What a model with a head answers; `logits` (batch, width) are the vectors."""
        output = self.encoder(attention_mask=attention_mask, **inputs)
        vectors = pooled(output.last_hidden_state, attention_mask, self.problem)
        return SequenceClassifierOutput(
            logits=self.dense(vectors) if self.dense else vectors, hidden_states=output.hidden_states
        )

    def save_pretrained(self, folder: Path, **options: Any) -> None:
        """Leave a folder that transformers' AutoModel and sentence-transformers open."""
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


Model = PreTrainedModel | SentenceEncoder
"""What a stage trains, and what it learns from."""


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def pooled(states: Tensor, attention_mask: Tensor, problem: Embedding) -> Tensor:
    """(batch, width): the first token's state, or the mean over real tokens, in float32."""
    if problem.pooling == "first":
        return states[:, 0]
    mask = attention_mask.unsqueeze(-1).to(torch.float32)
    real = torch.where(mask.bool(), states.float(), 0.0)
    return (real * mask).sum(1) / mask.sum(1)


def sentence_encoder(encoder: PreTrainedModel, problem: Embedding, *, width: int | None, seed: int) -> SentenceEncoder:
    """An encoder with vectors `width` wide, mapped there by a fresh layer where it has another width itself."""
    own = int(encoder.config.hidden_size)
    if width is None or width == own:
        return SentenceEncoder(encoder, problem, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SentenceEncoder(encoder, problem, nn.Linear(own, width))


def load_sentence_encoder(folder: Path, problem: Embedding) -> SentenceEncoder:
    """What `save_pretrained` left, or any encoder; a map to another width is taken where there is one."""
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
    """Refuse a map to another width that does not fit the encoder, or is more than a linear layer.

    Raises:
        DataError: what does not fit, in which files.
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
        given = " x ".join(map(str, shapes.get("weight", ()))) or "missing"
        raise DataError(
            f"{file}: linear.weight is {given}, but {outputs} x {config.hidden_size} by {described} (out_features) and "
            f"the encoder (hidden_size); fetch all files of the same model"
        )
    if not str(activation).endswith(".Identity"):
        raise DataError(
            f"{described}: activation_function is {activation}, but only a linear map is read; give a model without "
            "2_Dense, or with Identity"
        )


def vector_width(folder: Path, config: PretrainedConfig) -> int:
    """Width of the vectors of the model in a folder."""
    file = folder / DENSE / "config.json"
    if file.is_file():
        return int(json.loads(file.read_text(encoding="utf-8"))["out_features"])
    return int(config.hidden_size)
