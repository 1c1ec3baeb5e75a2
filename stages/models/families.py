"""Configs of students: an encoder family in another shape, or with another family's vocabulary.

transformers' configs agree on depth, width and heads (`attribute_map` maps DistilBERT's names), but not on the sizes
derived from them. Every rule here names the family it is for; `student_config` checks that the rules suffice by running
the model on shapes alone. Where a rule has a choice, a student of the teacher's shape gets the teacher's config.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from schemas.core.errors import ConfigError
from schemas.recipe.student import StudentShape
from stages.models.encoders import reserved_positions, shape_of

_SHARED_NAMES = ("num_hidden_layers", "hidden_size", "num_attention_heads")
_INNER_NAMES = ("intermediate_size", "hidden_dim")  # hidden_dim in DistilBERT
_EMBEDDING_NAMES = ("embedding_size", "input_embedding_size")  # input_embedding_size in RemBERT
_LISTS_PER_LAYER = ("layer_types", "attention_window")  # ModernBERT, Longformer


def reshape(
    config: PretrainedConfig, shape: StudentShape, *, layers: tuple[int, ...] | None = None
) -> PretrainedConfig:
    """Return a copy of `config` in another shape; settings that do not depend on the shape stay.

    Args:
        config: a config of any encoder family.
        shape: depth, width, heads and inner size of the copy.
        layers: the block of `config` that each block of the copy is made from, for families whose attention differs
            between blocks; None repeats the pattern from the first block.

    Raises:
        ConfigError: the family lacks one of the sizes, or its config refuses it.
    """
    family = config.model_type
    for name in _SHARED_NAMES:
        if not hasattr(config, name):
            raise ConfigError(
                f"student.shape: a {family} config has no {name}, so it cannot take this shape; "
                "set student.model_type to another family with the same tokenizer, such as bert"
            )
    changes = _width(config, shape) | _heads(config, shape) | _depth(config, shape, layers)
    reshaped = copy.deepcopy(config)
    for name, value in changes.items():
        try:
            setattr(reshaped, name, value)
        except (NotImplementedError, ValueError, StrictDataclassError) as error:
            raise ConfigError(
                f"student.shape: a {family} config takes no {name} of {value} ({error}); "
                "set student.model_type to another family with the same tokenizer, such as bert"
            ) from None
    reshaped.architectures = None
    return reshaped


def _width(config: PretrainedConfig, shape: StudentShape) -> dict[str, Any]:
    width = shape.hidden_size
    changes: dict[str, Any] = {"hidden_size": width}
    inner = next((name for name in _INNER_NAMES if hasattr(config, name)), None)
    if inner is not None:
        changes[inner] = shape.intermediate_size
    elif shape.intermediate_size != 4 * width:
        raise ConfigError(
            f"student.shape.intermediate_size: {shape.intermediate_size}, but the feed-forward part of a "
            f"{config.model_type} model is always 4 x hidden_size; give {4 * width}"
        )
    for name in _EMBEDDING_NAMES:
        # Embeddings as wide as the model follow its width; a factorised width belongs to the vocabulary and stays.
        if getattr(config, name, None) == config.hidden_size:
            changes[name] = width
    if hasattr(config, "pooler_hidden_size"):  # DeBERTa: the pooler's input
        changes["pooler_hidden_size"] = width
    if hasattr(config, "true_hidden_size"):
        changes |= _bottleneck(config, shape)
    return changes


def _bottleneck(config: PretrainedConfig, shape: StudentShape) -> dict[str, Any]:
    """MobileBERT's smaller width inside its blocks, in the teacher's proportion and divisible by the heads."""
    # The masked-language head cannot be narrower than the embeddings.
    changes = {"embedding_size": min(config.embedding_size, shape.hidden_size)}
    if not config.use_bottleneck:
        return changes | {"true_hidden_size": shape.hidden_size}
    heads = shape.num_attention_heads
    per_head = shape.hidden_size * config.intra_bottleneck_size / config.hidden_size / heads
    inside = heads * max(1, round(per_head))
    return changes | {"intra_bottleneck_size": inside, "true_hidden_size": inside}


def _heads(config: PretrainedConfig, shape: StudentShape) -> dict[str, Any]:
    heads = shape.num_attention_heads
    changes: dict[str, Any] = {"num_attention_heads": heads}
    if getattr(config, "head_dim", None) is not None:  # NomicBERT, EuroBERT
        changes["head_dim"] = shape.hidden_size // heads
    if (num_key_value_heads := getattr(config, "num_key_value_heads", None)) is not None:
        # EuroBERT: as many query heads share a key head as in the teacher, or the largest smaller divisor.
        shared_by = config.num_attention_heads // num_key_value_heads
        divisor = next(number for number in range(shared_by, 0, -1) if heads % number == 0)
        changes["num_key_value_heads"] = heads // divisor
    return changes


def _depth(config: PretrainedConfig, shape: StudentShape, layers: tuple[int, ...] | None) -> dict[str, Any]:
    depth = shape.num_layers
    changes: dict[str, Any] = {"num_hidden_layers": depth}
    if (num_groups := getattr(config, "num_hidden_groups", None)) is not None:
        changes["num_hidden_groups"] = min(num_groups, depth)  # ALBERT: layers share a group's weights
    for name in _LISTS_PER_LAYER:
        kinds = getattr(config, name, None)
        if isinstance(kinds, list):
            period = _period(kinds)
            origins = layers or tuple(layer % period for layer in range(depth))
            changes[name] = [kinds[layer] for layer in origins]
    return changes


def _period(kinds: list[Any]) -> int:
    """Length of the shortest prefix that the list repeats (ModernBERT: one global layer, two local ones)."""
    return next(
        period
        for period in range(1, len(kinds) + 1)
        if all(kind == kinds[index % period] for index, kind in enumerate(kinds))
    )


def adopt_vocabulary(model_type: str, teacher: PretrainedConfig) -> PretrainedConfig:
    """Return the default config of the family `model_type` for the teacher's tokenizer.

    Vocabulary, positions, token types and special tokens are the teacher's; all else is the family's default.

    Raises:
        ConfigError: transformers has no such encoder, or the family cannot read this vocabulary.
    """
    config = _encoder_config(model_type)
    shape = shape_of(teacher)
    changes: dict[str, Any] = {"vocab_size": shape.vocab_size}
    for name in config.to_dict():
        if name.endswith("_token_id"):
            changes[name] = getattr(teacher, name, None)
    if changes.get("pad_token_id") is None:
        changes["pad_token_id"] = 0
    if hasattr(config, "type_vocab_size"):
        # The tokenizer of a teacher without type embeddings may still mark the two texts of a pair.
        changes["type_vocab_size"] = getattr(teacher, "type_vocab_size", 0) or 2
    for name, value in changes.items():
        try:
            setattr(config, name, value)
        except StrictDataclassError:  # an id required by the family and missing in the teacher
            setattr(config, name, changes["pad_token_id"])
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = shape.max_positions + reserved_positions(config)
    return config


def check_padding(config: PretrainedConfig) -> None:
    """Refuse a family whose padding token is not the tokenizer's (MPNet: always token 1).

    That token would get neither a position nor a trained embedding.
    """
    with torch.device("meta"):
        embedding = AutoModel.from_config(copy.deepcopy(config)).get_input_embeddings()
    padding = getattr(embedding, "padding_idx", None)
    if padding is not None and padding != config.pad_token_id:
        raise ConfigError(
            f"student.model_type: {config.model_type} models treat token {padding} as padding, but the teacher's "
            f"tokenizer pads with token {config.pad_token_id}; choose another family, such as bert or roberta"
        )


def _encoder_config(model_type: str) -> PretrainedConfig:
    if model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        near = difflib.get_close_matches(model_type, MODEL_FOR_MASKED_LM_MAPPING_NAMES, n=3)
        raise ConfigError(
            f"student.model_type: transformers has no encoder named {model_type}; "
            + (f"did you mean {' or '.join(near)}?" if near else "give one, such as bert or roberta")
        )
    config = AutoConfig.for_model(model_type)
    if config.is_encoder_decoder or not hasattr(config, "vocab_size"):
        raise ConfigError(
            f"student.model_type: {model_type} is not a pure text encoder; give one, such as bert or roberta"
        )
    return config
