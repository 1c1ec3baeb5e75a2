"""Meaning of every dimension of every weight in each encoder family.

The table of a family has two users: `importance` sums scores over the weights of a part, and `extract` cuts out the
same weights. Only families whose tensors were checked one by one are listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from transformers import PretrainedConfig

from schemas.core.errors import ConfigError


class Role(Enum):
    """Meaning of the entries along one dimension of a weight."""

    WHOLE = auto()
    """Vocabulary, positions, token types: never cut."""
    EMBEDDING = auto()
    """Channels of the embeddings; `anatomy_of` turns them into HIDDEN, or WHOLE if they are projected."""
    HIDDEN = auto()
    """Channels of the hidden states, shared by all blocks."""
    QUERY = auto()
    """Head x channel of queries and keys."""
    VALUE = auto()
    """Head x channel of values."""
    CONTEXT = auto()
    """Head x channel of the output projection's input; cut like the values."""
    NEURON = auto()
    """Neurons of the feed-forward part."""


Dimension = tuple[Role, ...]
"""Several roles if a family concatenates parts of equal size along a dimension."""
Dimensions = tuple[Dimension, ...]

_WHOLE: Dimension = (Role.WHOLE,)
_EMBEDDING: Dimension = (Role.EMBEDDING,)
_HIDDEN: Dimension = (Role.HIDDEN,)
_QUERY: Dimension = (Role.QUERY,)
_VALUE: Dimension = (Role.VALUE,)
_CONTEXT: Dimension = (Role.CONTEXT,)
_NEURON: Dimension = (Role.NEURON,)


@dataclass(frozen=True)
class Location:
    """Block and dimensions of a weight."""

    layer: int | None
    """Block number, 0 is the first; None outside the blocks."""
    dimensions: Dimensions
    """Roles of each dimension of the weight."""


@dataclass(frozen=True)
class Anatomy:
    """Weights of one family."""

    blocks: str
    """Name of the list of blocks."""
    outside: dict[str, Dimensions]
    """Patterns of module names outside the blocks -> dimensions of the weight; a bias has the first one."""
    inside: dict[str, Dimensions]
    """The same for modules inside a block, without the block's name."""
    is_rotary: bool = False
    """True if queries and keys are rotated at frequencies that depend on the head's width."""
    shares_heads: bool = False
    """True if all blocks share weights of each head, so that no block can do without one."""

    def locate(self, name: str, num_dimensions: int) -> Location:
        """Return the location of parameter `name`, which has `num_dimensions` dimensions.

        Raises:
            ConfigError: the parameter is not in the table (cross attention, adapters, another release).
        """
        module, _, _ = name.rpartition(".")
        block = re.fullmatch(rf"{re.escape(self.blocks)}\.(\d+)\.(.+)", module)
        table, wanted = (self.inside, block[2]) if block else (self.outside, module)
        for pattern, dimensions in table.items():
            if re.fullmatch(pattern, wanted):
                return Location(int(block[1]) if block else None, dimensions[:num_dimensions])
        raise ConfigError(
            f"student.start.kind: the teacher has the weight {name}, which extraction does not know how to cut; "
            "set student.start.kind to random or teacher_layers"
        )


_BERT = Anatomy(
    blocks="encoder.layer",
    outside={
        r"embeddings\.\w+_embeddings": (_WHOLE, _EMBEDDING),
        r"embeddings\.LayerNorm": (_EMBEDDING,),
        r"embeddings_project": (_HIDDEN, _EMBEDDING),
        r"pooler\.dense": (_HIDDEN, _HIDDEN),
    },
    inside={
        r"attention\.self\.(query|key)": (_QUERY, _HIDDEN),
        r"attention\.self\.value": (_VALUE, _HIDDEN),
        r"attention\.output\.dense": (_HIDDEN, _CONTEXT),
        r"(attention\.)?output\.LayerNorm": (_HIDDEN,),
        r"intermediate\.dense": (_NEURON, _HIDDEN),
        r"output\.dense": (_HIDDEN, _NEURON),
    },
)
_DISTILBERT = Anatomy(
    blocks="transformer.layer",
    outside={r"embeddings\.\w+_embeddings": (_WHOLE, _EMBEDDING), r"embeddings\.LayerNorm": (_EMBEDDING,)},
    inside={
        r"attention\.[qk]_lin": (_QUERY, _HIDDEN),
        r"attention\.v_lin": (_VALUE, _HIDDEN),
        r"attention\.out_lin": (_HIDDEN, _CONTEXT),
        r"(sa|output)_layer_norm": (_HIDDEN,),
        r"ffn\.lin1": (_NEURON, _HIDDEN),
        r"ffn\.lin2": (_HIDDEN, _NEURON),
    },
)
_MODERNBERT = Anatomy(
    blocks="layers",
    outside={
        r"embeddings\.tok_embeddings": (_WHOLE, _EMBEDDING),
        r"embeddings\.norm": (_EMBEDDING,),
        r"final_norm": (_HIDDEN,),
    },
    inside={
        r"(attn|mlp)_norm": (_HIDDEN,),
        r"attn\.Wqkv": (_QUERY + _QUERY + _VALUE, _HIDDEN),
        r"attn\.Wo": (_HIDDEN, _CONTEXT),
        # The first half goes through the activation and is multiplied by the second: a neuron is a row of each.
        r"mlp\.Wi": (_NEURON + _NEURON, _HIDDEN),
        r"mlp\.Wo": (_HIDDEN, _NEURON),
    },
    is_rotary=True,
)
_MPNET = Anatomy(
    blocks="encoder.layer",
    outside={
        r"embeddings\.\w+_embeddings": (_WHOLE, _EMBEDDING),
        r"embeddings\.LayerNorm": (_EMBEDDING,),
        r"encoder\.relative_attention_bias": (_WHOLE, _WHOLE),
        r"pooler\.dense": (_HIDDEN, _HIDDEN),
    },
    inside={
        r"attention\.attn\.[qk]": (_QUERY, _HIDDEN),
        r"attention\.attn\.v": (_VALUE, _HIDDEN),
        r"attention\.attn\.o": (_HIDDEN, _CONTEXT),
        r"(attention|output)\.LayerNorm": (_HIDDEN,),
        r"intermediate\.dense": (_NEURON, _HIDDEN),
        r"output\.dense": (_HIDDEN, _NEURON),
    },
    shares_heads=True,
)
_MEGATRON_BERT = replace(
    _BERT,
    outside=_BERT.outside | {r"encoder\.ln": (_HIDDEN,)},
    inside=_BERT.inside | {r"(attention\.)?ln": (_HIDDEN,)},
)
_DEBERTA_V2 = Anatomy(
    blocks="encoder.layer",
    outside={
        r"embeddings\.\w+_embeddings": (_WHOLE, _EMBEDDING),
        r"embeddings\.embed_proj": (_HIDDEN, _EMBEDDING),
        r"encoder\.rel_embeddings": (_WHOLE, _HIDDEN),
        r"encoder\.conv\.conv": (_HIDDEN, _HIDDEN, _WHOLE),
        r"(embeddings|encoder|encoder\.conv)\.LayerNorm": (_HIDDEN,),
    },
    inside={
        # Projected positions meet queries or keys, whose channels they share.
        r"attention\.self\.(query|key|pos_query|pos_key)_proj": (_QUERY, _HIDDEN),
        r"attention\.self\.value_proj": (_VALUE, _HIDDEN),
        r"attention\.output\.dense": (_HIDDEN, _CONTEXT),
        r"(attention\.)?output\.LayerNorm": (_HIDDEN,),
        r"intermediate\.dense": (_NEURON, _HIDDEN),
        r"output\.dense": (_HIDDEN, _NEURON),
    },
)
_ROFORMER = replace(_BERT, outside=_BERT.outside | {r"encoder\.embed_positions": (_WHOLE, _WHOLE)}, is_rotary=True)
_FAMILIES: Mapping[str, Anatomy] = {
    "bert": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "deberta-v2": _DEBERTA_V2,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "ernie": _BERT,
    "layoutlm": _BERT,
    "megatron-bert": _MEGATRON_BERT,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "roberta": _BERT,
    "roformer": _ROFORMER,
    "xlm-roberta": _BERT,
}


def anatomy_of(config: PretrainedConfig) -> Anatomy:
    """Return the weights of the config's family.

    Raises:
        ConfigError: the family is not listed.
    """
    if config.model_type not in _FAMILIES:
        raise ConfigError(
            f"student.start.kind: extraction does not know the family {config.model_type}, only "
            f"{', '.join(sorted(_FAMILIES))}; set student.start.kind to random or teacher_layers"
        )
    if getattr(config, "conv_groups", 1) > 1 and getattr(config, "conv_kernel_size", 0):
        raise ConfigError(
            f"student.start.kind: the teacher's convolution has {config.conv_groups} groups of channels, which "
            "extraction does not know how to cut; set student.start.kind to random or teacher_layers"
        )
    anatomy = _FAMILIES[config.model_type]
    embedding = _HIDDEN if embedding_width(config) == config.hidden_size else _WHOLE
    outside = {
        pattern: tuple(embedding if dimension == _EMBEDDING else dimension for dimension in dimensions)
        for pattern, dimensions in anatomy.outside.items()
    }
    return replace(anatomy, outside=outside)


def head_width(config: PretrainedConfig) -> int:
    """Return the channels of one attention head."""
    return int(config.hidden_size) // int(config.num_attention_heads)


def inner_size(config: PretrainedConfig) -> int:
    """Return the neurons of one block's feed-forward part (hidden_dim in DistilBERT)."""
    return int(getattr(config, "intermediate_size", None) or config.hidden_dim)


def embedding_width(config: PretrainedConfig) -> int:
    """Return the channels of the embeddings; ELECTRA's, RoFormer's and DeBERTa-v2's can differ from hidden_size."""
    return int(getattr(config, "embedding_size", None) or config.hidden_size)
