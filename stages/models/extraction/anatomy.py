"""Where each family of encoders keeps its parts: what every dimension of every weight counts.

One table per family serves both users of it: `importance` sums scores over the weights of a part, and `extract` cuts
the same weights out. A family is listed only where its tensors were checked one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from transformers import PretrainedConfig

from schemas.core.errors import ConfigError


class Role(Enum):
    """What the places along one dimension of a weight stand for."""

    WHOLE = auto()
    """Vocabulary, positions, token types: never cut."""
    EMBEDDING = auto()
    """Channels of the embeddings; `anatomy_of` makes them HIDDEN, or WHOLE where they are projected to that width."""
    HIDDEN = auto()
    """Channels of the hidden states, shared by all blocks."""
    QUERY = auto()
    """Head x channel of queries and keys."""
    VALUE = auto()
    """Head x channel of values."""
    CONTEXT = auto()
    """Head x channel of what the output projection reads; cut as the values are."""
    NEURON = auto()
    """Neurons of the feed-forward part."""


Dimension = tuple[Role, ...]
"""Several roles where a family lays several parts of one size one after the other along a dimension."""
Dimensions = tuple[Dimension, ...]

_WHOLE: Dimension = (Role.WHOLE,)
_EMBEDDING: Dimension = (Role.EMBEDDING,)
_HIDDEN: Dimension = (Role.HIDDEN,)
_QUERY: Dimension = (Role.QUERY,)
_VALUE: Dimension = (Role.VALUE,)
_CONTEXT: Dimension = (Role.CONTEXT,)
_NEURON: Dimension = (Role.NEURON,)


@dataclass(frozen=True)
class Place:
    """Where a weight belongs."""

    layer: int | None
    """Its block, 0 the first; None outside the blocks."""
    dimensions: Dimensions
    """One entry per dimension of the weight."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of one family."""

    blocks: str
    """Name of the list of blocks."""
    outside: Mapping[str, Dimensions]
    """Patterns of module names outside the blocks -> dimensions of the weight; a bias has the first of them."""
    inside: Mapping[str, Dimensions]
    """The same inside a block, without the block's own name."""
    is_rotary: bool = False
    """Whether channels of queries and keys are turned at frequencies that the head's width decides."""

    def place(self, name: str, num_dimensions: int) -> Place:
        """What the parameter `name` of `num_dimensions` dimensions holds.

        Raises:
            ConfigError: the table has no such parameter (cross attention, adapters, another release).
        """
        module, _, _ = name.rpartition(".")
        block = re.fullmatch(rf"{re.escape(self.blocks)}\.(\d+)\.(.+)", module)
        table, wanted = (self.inside, block[2]) if block else (self.outside, module)
        for pattern, dimensions in table.items():
            if re.fullmatch(pattern, wanted):
                return Place(int(block[1]) if block else None, dimensions[:num_dimensions])
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
_FAMILIES: Mapping[str, Anatomy] = {
    "bert": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "ernie": _BERT,
    "layoutlm": _BERT,
    "modernbert": _MODERNBERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}


def anatomy_of(config: PretrainedConfig) -> Anatomy:
    """The parts of the config's family.

    Raises:
        ConfigError: the family is not among those whose weights are known here.
    """
    if config.model_type not in _FAMILIES:
        raise ConfigError(
            f"student.start.kind: extraction does not know the family {config.model_type}, only "
            f"{', '.join(sorted(_FAMILIES))}; set student.start.kind to random or teacher_layers"
        )
    anatomy = _FAMILIES[config.model_type]
    embedding = _HIDDEN if embedding_width(config) == config.hidden_size else _WHOLE
    outside = {
        pattern: tuple(embedding if each == _EMBEDDING else each for each in dimensions)
        for pattern, dimensions in anatomy.outside.items()
    }
    return replace(anatomy, outside=outside)


def head_width(config: PretrainedConfig) -> int:
    """Channels of one attention head."""
    return int(config.hidden_size) // int(config.num_attention_heads)


def inner_size(config: PretrainedConfig) -> int:
    """Neurons of one block's feed-forward part; DistilBERT calls the number hidden_dim."""
    return int(getattr(config, "intermediate_size", None) or config.hidden_dim)


def embedding_width(config: PretrainedConfig) -> int:
    """Channels of the embeddings; only ELECTRA, of the families here, can have another width than the hidden one."""
    return int(getattr(config, "embedding_size", config.hidden_size))
