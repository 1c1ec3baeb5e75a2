"""Random teachers of every family that supports extraction, and students extracted from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from schemas.recipe.student import StudentShape
from stages.data.batching.payloads import Targets
from stages.data.batching.tokens import Batch
from stages.models.encoders import attention_of
from stages.models.extraction.extract import Extraction, choose_parts, extract_student
from stages.models.extraction.importance import Importance, measure_importance
from stages.models.student import student_config

LAYERS, HEADS, WIDTH, NEURONS = 3, 4, 6, 20


HIDDEN = HEADS * WIDTH


SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": NEURONS}


OWN_SIZES = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": NEURONS}


SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}


DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "pooler_hidden_size": HIDDEN,
    "pad_token_id": 1,
}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", SIZES),
    "roberta": ("roberta", SIZES),
    "xlm-roberta": ("xlm-roberta", SIZES),
    "camembert": ("camembert", SIZES),
    "data2vec-text": ("data2vec-text", SIZES),
    "electra": ("electra", SIZES | {"embedding_size": HIDDEN}),
    "electra with narrow embeddings": ("electra", SIZES | {"embedding_size": 10}),
    "ernie": ("ernie", SIZES | {"use_task_id": True}),
    "layoutlm": ("layoutlm", SIZES | {"max_2d_position_embeddings": 8}),
    "distilbert": ("distilbert", OWN_SIZES),
    "mpnet": ("mpnet", SIZES),
    "deberta-v2": ("deberta-v2", SIZES | DEBERTA | {"position_biased_input": True, "type_vocab_size": 2}),
    "deberta-v2 as published": (
        "deberta-v2",
        SIZES | DEBERTA | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3},
    ),
    "deberta-v2 with narrow embeddings": ("deberta-v2", SIZES | DEBERTA | {"embedding_size": 10}),
    "megatron-bert": ("megatron-bert", SIZES),
    "roformer": ("roformer", SIZES | {"embedding_size": HIDDEN}),
    "roformer with narrow embeddings": ("roformer", SIZES | {"embedding_size": 10}),
    "modernbert": ("modernbert", SIZES | SPECIAL | {"attention_bias": True, "mlp_bias": True}),
}


def teacher_of(family: str = "bert", *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random encoder whose weights, including norms and biases, are all distinct."""
    model_type, sizes = FAMILIES[family]
    config = AutoConfig.for_model(model_type, vocab_size=40, max_position_embeddings=16, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype, **attention_of(config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape) + (parameter == 1))
    return model.eval()


def some_text() -> Batch:
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    ids[1, 6:] = 1
    return Batch(ids, mask, None, Targets(), int(mask.sum()))


def states(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(**some_text().model_inputs()).last_hidden_state[some_text().attention_mask == 1]


def shape_of(layers: int = LAYERS, hidden: int = HIDDEN, heads: int = HEADS, neurons: int = NEURONS) -> StudentShape:
    return StudentShape(num_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=neurons)


def chosen(
    teacher: PreTrainedModel,
    shape: StudentShape,
    layers: tuple[int, ...],
    importance: Importance | None = None,
    seed: int = 0,
) -> tuple[PretrainedConfig, Extraction]:
    config = student_config(teacher.config, shape, layers=layers)
    return config, choose_parts(teacher.config, config, layers, importance=importance, seed=seed)


def extracted(
    teacher: PreTrainedModel, shape: StudentShape, layers: tuple[int, ...], **how: Any
) -> tuple[PreTrainedModel, Extraction]:
    config, parts = chosen(teacher, shape, layers, **how)
    return extract_student(teacher, config, parts), parts


def scores_of(teacher: PreTrainedModel) -> Importance:
    return measure_importance(teacher, [some_text()], mask_token_id=4, seed=0)
