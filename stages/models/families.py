"""How a config of each encoder family takes a student's shape, and how one family takes over another's vocabulary.

transformers' configs agree on depth, width and heads (`attribute_map` maps DistilBERT's own names), not on what
follows from them. Each rule here names what it is for; together they must be all of it, which `student_config` checks
by running the model on shapes alone. Where a rule leaves a choice, a student of the teacher's own shape gets the
teacher's config.
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
_INNER_NAMES = ("intermediate_size", "hidden_dim")  # DistilBERT says hidden_dim
_EMBEDDING_NAMES = ("embedding_size", "input_embedding_size")  # RemBERT says input_embedding_size
_LISTS_PER_LAYER = ("layer_types", "attention_window")  # ModernBERT, Longformer


def reshape(
    config: PretrainedConfig, shape: StudentShape, *, layers: tuple[int, ...] | None = None
) -> PretrainedConfig:
    """A copy of `config` in another shape; what does not depend on the shape stays.

    Args:
        config: of any encoder family.
        shape: depth, width, heads and inner size of the copy.
        layers: the block of `config` that each block of the copy stands for, where the kind of attention differs from
            block to block; None goes on with the pattern from the first block.

    Raises:
        ConfigError: the family has no such size, or its config refuses it.
    """
    family = config.model_type
    for name in _SHARED_NAMES:
        if not hasattr(config, name):
            raise ConfigError(
                f"student.shape: a {family} config has no {name}, so this shape cannot be given to it; "
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
        # As wide as the model: it stays so. Narrower or wider: factorised, a size of the vocabulary and not of a layer.
        if getattr(config, name, None) == config.hidden_size:
            changes[name] = width
    if hasattr(config, "pooler_hidden_size"):  # DeBERTa: what the pooler reads
        changes["pooler_hidden_size"] = width
    if hasattr(config, "true_hidden_size"):
        changes |= _bottleneck(config, shape)
    return changes


def _bottleneck(config: PretrainedConfig, shape: StudentShape) -> dict[str, Any]:
    """MobileBERT computes inside its blocks at a smaller width, in the teacher's proportion, whole for every head."""
    # Its masked-language head cannot be narrower than its embeddings.
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
        # EuroBERT: as many query heads share a key head as in the teacher, or the most below that which divide.
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
            taken = layers or tuple(layer % period for layer in range(depth))
            changes[name] = [kinds[layer] for layer in taken]
    return changes


def _period(kinds: list[Any]) -> int:
    """Length of the shortest beginning that the whole list repeats (ModernBERT: one global layer, two local)."""
    return next(
        period
        for period in range(1, len(kinds) + 1)
        if all(kind == kinds[index % period] for index, kind in enumerate(kinds))
    )


def adopt_vocabulary(model_type: str, teacher: PretrainedConfig) -> PretrainedConfig:
    """A fresh config of the family `model_type` for the teacher's tokenizer.

    Vocabulary, positions, token types and special tokens are the teacher's, everything else is the family's default.

    Raises:
        ConfigError: transformers has no such encoder, or the family cannot read this vocabulary.
    """
    config = _encoder_config(model_type)
    given = shape_of(teacher)
    changes: dict[str, Any] = {"vocab_size": given.vocab_size}
    for name in config.to_dict():
        if name.endswith("_token_id"):
            changes[name] = getattr(teacher, name, None)
    if changes.get("pad_token_id") is None:
        changes["pad_token_id"] = 0
    if hasattr(config, "type_vocab_size"):
        # A teacher without a table of types leaves them unread; its tokenizer may still tell two texts of a pair apart.
        changes["type_vocab_size"] = getattr(teacher, "type_vocab_size", 0) or 2
    for name, value in changes.items():
        try:
            setattr(config, name, value)
        except StrictDataclassError:  # an id that the family must have and the teacher does not name
            setattr(config, name, changes["pad_token_id"])
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = given.max_positions + reserved_positions(config)
    return config


def check_padding(config: PretrainedConfig) -> None:
    """Refuse a family that treats another token as padding than the tokenizer does (MPNet: always token 1).

    Such a token would get neither a position of its own nor a trained embedding.
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
            f"student.model_type: {model_type} is no encoder that transformers has; "
            + (f"did you mean {' or '.join(near)}?" if near else "give one, such as bert or roberta")
        )
    config = AutoConfig.for_model(model_type)
    if config.is_encoder_decoder or not hasattr(config, "vocab_size"):
        raise ConfigError(
            f"student.model_type: {model_type} is more than an encoder of text; give one that is not, such as bert or "
            "roberta"
        )
    return config
