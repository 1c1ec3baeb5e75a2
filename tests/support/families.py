"""Tiny random models of every family of teachers and students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from schemas.recipe.student import StudentShape
from tests.support.toys import random_model

VOCABULARY = 120
SHAPE = StudentShape(num_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=16)
# Attention goes through transformers' attention interface.
CAPTURED = (
    "bert roberta xlm-roberta electra distilbert albert modernbert ernie camembert nomic_bert mobilebert layoutlm "
    "eurobert gte"
).split()
# Attention is computed in modules of their own.
HOOKED = "mpnet deberta-v2 roformer megatron-bert rembert".split()
READABLE = CAPTURED + HOOKED
# Older releases of transformers lack some.
FAMILIES = [family for family in [*READABLE, "convbert"] if family in CONFIG_MAPPING]


def family_config(
    family: str, *, layers: int = 3, width: int = 16, heads: int = 2, inner: int = 32, **more: Any
) -> PretrainedConfig:
    """A tiny config with the family's own keys; token 0 is padding as in the tiny tokenizer."""
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    if family == "distilbert":
        sizes = {"n_layers": layers, "dim": width, "n_heads": heads, "hidden_dim": inner}
    fields: dict[str, dict[str, Any]] = {
        "electra": {"embedding_size": 12},
        "albert": {"embedding_size": 12},
        "roformer": {"embedding_size": 12},
        "rembert": {"input_embedding_size": 12, "output_embedding_size": 12},
        "convbert": {"embedding_size": width},
        "mobilebert": {"embedding_size": 6, "intra_bottleneck_size": width // 2},
        "deberta-v2": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": width,
        },
        "eurobert": {"num_key_value_heads": heads // 2, "head_dim": width // heads, "mask_token_id": 4},
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if family == "modernbert":
        tokens |= {"cls_token_id": 2, "sep_token_id": 3}
    # Drawn wider than usual: attention of models this small would be nearly uniform.
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "initializer_range": 0.3}
    return AutoConfig.for_model(family, **(common | sizes | fields.get(family, {}) | tokens | more))


def family_folder(folder: Path, family: str, *, labels: tuple[str, ...] | None = None) -> Path:
    """Save a random model of `family` with the tiny tokenizer; a classifier if labels are given."""
    return random_model(folder, family_config(family), labels)
