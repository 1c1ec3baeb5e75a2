"""A student consists of exactly the teacher weights that the extraction lists."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stages.models.extraction.extract import Extraction, extract_student
from stages.models.student import student_config
from tests.unit.stages.models.extraction.teachers import (
    FAMILIES,
    HEADS,
    HIDDEN,
    LAYERS,
    NEURONS,
    WIDTH,
    chosen,
    extracted,
    scores_of,
    shape_of,
    states,
    teacher_of,
)


@pytest.mark.parametrize("units", ["random", "importance"])
@pytest.mark.parametrize("family", FAMILIES)
def test_extracting_the_full_shape_gives_the_teacher_bit_for_bit(family: str, units: str) -> None:
    teacher = teacher_of(family)
    importance = scores_of(teacher) if units == "importance" else None
    student, parts = extracted(teacher, shape_of(), (0, 1, 2), importance=importance)
    assert parts.hidden_channels == tuple(range(HIDDEN))
    weights = student.state_dict()
    assert weights.keys() == teacher.state_dict().keys()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(weights[name], tensor), name
        assert weights[name].data_ptr() != tensor.data_ptr(), name
    assert not student.training
    assert torch.equal(states(student), states(teacher))


def rows_of(heads: tuple[int, ...], channels: tuple[tuple[int, ...], ...]) -> list[int]:
    return [WIDTH * head + channel for head, kept in zip(heads, channels, strict=True) for channel in kept]


def expected_weights(family: str, parts: Extraction) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Map each student weight to the name and the kept indices of the teacher's weight."""
    hidden = list(parts.hidden_channels)
    outer = {
        "bert": {
            "embeddings.word_embeddings.weight": (range(40), hidden),
            "embeddings.position_embeddings.weight": (range(16), hidden),
            "embeddings.token_type_embeddings.weight": (range(2), hidden),
            "embeddings.LayerNorm": (hidden,),
            "pooler.dense": (hidden, hidden),
        },
        "electra with narrow embeddings": {
            "embeddings.word_embeddings.weight": (range(40), range(10)),
            "embeddings.position_embeddings.weight": (range(16), range(10)),
            "embeddings.token_type_embeddings.weight": (range(2), range(10)),
            "embeddings.LayerNorm": (range(10),),
            "embeddings_project": (hidden, range(10)),
        },
        "mpnet": {
            "embeddings.word_embeddings.weight": (range(40), hidden),
            "embeddings.position_embeddings.weight": (range(16), hidden),
            "embeddings.LayerNorm": (hidden,),
            "encoder.relative_attention_bias.weight": (range(32), range(HEADS)),
            "pooler.dense": (hidden, hidden),
        },
        "deberta-v2": {
            "embeddings.word_embeddings.weight": (range(40), hidden),
            "embeddings.position_embeddings.weight": (range(16), hidden),
            "embeddings.token_type_embeddings.weight": (range(2), hidden),
            "embeddings.LayerNorm": (hidden,),
            "encoder.rel_embeddings.weight": (range(32), hidden),
        },
        "deberta-v2 as published": {
            "embeddings.word_embeddings.weight": (range(40), hidden),
            "embeddings.LayerNorm": (hidden,),
            "encoder.rel_embeddings.weight": (range(32), hidden),
            "encoder.LayerNorm": (hidden,),
            "encoder.conv.conv": (hidden, hidden, range(3)),
            "encoder.conv.LayerNorm": (hidden,),
        },
        "megatron-bert": {
            "embeddings.word_embeddings.weight": (range(40), hidden),
            "embeddings.position_embeddings.weight": (range(16), hidden),
            "embeddings.token_type_embeddings.weight": (range(2), hidden),
            "encoder.ln": (hidden,),
            "pooler.dense": (hidden, hidden),
        },
        "roformer with narrow embeddings": {
            "embeddings.word_embeddings.weight": (range(40), range(10)),
            "embeddings.token_type_embeddings.weight": (range(2), range(10)),
            "embeddings.LayerNorm": (range(10),),
            "embeddings_project": (hidden, range(10)),
            "encoder.embed_positions.weight": (range(16), range(WIDTH)),
        },
        "distilbert": {
            "embeddings.word_embeddings.weight": (range(40), hidden),
            "embeddings.position_embeddings.weight": (range(16), hidden),
            "embeddings.LayerNorm": (hidden,),
        },
        "modernbert": {
            "embeddings.tok_embeddings.weight": (range(40), hidden),
            "embeddings.norm.weight": (hidden,),
            "final_norm.weight": (hidden,),
        },
    }
    origins = {name: (name, indices) for name, indices in outer[family].items()}
    for block, layer in enumerate(parts.layers):
        inner = expected_block(family, parts, block)
        before = {"distilbert": "transformer.layer", "modernbert": "layers"}
        blocks = before.get(family, "encoder.layer")
        for name, indices in inner.items():
            if not (family == "modernbert" and block == 0 and name == "attn_norm.weight"):
                origins[f"{blocks}.{block}.{name}"] = (f"{blocks}.{layer}.{name}", indices)
    return origins


def expected_block(family: str, parts: Extraction, block: int) -> dict[str, tuple[Any, ...]]:
    hidden, neurons = list(parts.hidden_channels), list(parts.neurons[block])
    query = rows_of(parts.heads[block], parts.query_channels[block])
    value = rows_of(parts.heads[block], parts.value_channels[block])
    if family == "distilbert":
        return {
            "attention.q_lin": (query, hidden),
            "attention.k_lin": (query, hidden),
            "attention.v_lin": (value, hidden),
            "attention.out_lin": (hidden, value),
            "sa_layer_norm": (hidden,),
            "ffn.lin1": (neurons, hidden),
            "ffn.lin2": (hidden, neurons),
            "output_layer_norm": (hidden,),
        }
    if family == "mpnet":
        return {
            "attention.attn.q": (query, hidden),
            "attention.attn.k": (query, hidden),
            "attention.attn.v": (value, hidden),
            "attention.attn.o": (hidden, value),
            "attention.LayerNorm": (hidden,),
            "intermediate.dense": (neurons, hidden),
            "output.dense": (hidden, neurons),
            "output.LayerNorm": (hidden,),
        }
    if family == "modernbert":
        keys, values = [HIDDEN + row for row in query], [2 * HIDDEN + row for row in value]
        gates = [NEURONS + neuron for neuron in neurons]
        return {
            "attn_norm.weight": (hidden,),
            "attn.Wqkv": (query + keys + values, hidden),
            "attn.Wo": (hidden, value),
            "mlp_norm.weight": (hidden,),
            "mlp.Wi": (neurons + gates, hidden),
            "mlp.Wo": (hidden, neurons),
        }
    if family.startswith("deberta-v2"):
        positions = {} if family.endswith("published") else dict.fromkeys(("pos_query_proj", "pos_key_proj"), query)
        of_attention = {"query_proj": query, "key_proj": query, "value_proj": value} | positions
        return {f"attention.self.{name}": (rows, hidden) for name, rows in of_attention.items()} | {
            "attention.output.dense": (hidden, value),
            "attention.output.LayerNorm": (hidden,),
            "intermediate.dense": (neurons, hidden),
            "output.dense": (hidden, neurons),
            "output.LayerNorm": (hidden,),
        }
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    if family == "megatron-bert":
        norms = ("attention.ln", "ln")
    return dict.fromkeys(norms, (hidden,)) | {
        "attention.self.query": (query, hidden),
        "attention.self.key": (query, hidden),
        "attention.self.value": (value, hidden),
        "attention.output.dense": (hidden, value),
        "intermediate.dense": (neurons, hidden),
        "output.dense": (hidden, neurons),
    }


@pytest.mark.parametrize(
    ("family", "hidden", "heads", "layers"),
    [
        ("bert", 12, 3, (0, 2)),
        ("bert", 8, 4, (2, 1)),
        ("electra with narrow embeddings", 12, 3, (1, 1)),
        ("distilbert", 12, 2, (2,)),
        ("mpnet", 12, 4, (0, 2)),
        ("megatron-bert", 12, 3, (2, 0)),
        ("deberta-v2", 12, 3, (2, 0)),
        ("deberta-v2 as published", 12, 2, (0, 1)),
        ("roformer with narrow embeddings", 12, 2, (1, 2)),
        ("modernbert", 12, 2, (0, 2)),
    ],
)
@pytest.mark.parametrize("units", ["random", "importance"])
def test_every_weight_is_sliced_by_the_listed_indices(
    family: str, hidden: int, heads: int, layers: tuple[int, ...], units: str
) -> None:
    teacher = teacher_of(family)
    importance = scores_of(teacher) if units == "importance" else None
    shape = shape_of(len(layers), hidden, heads, neurons=7)
    student, parts = extracted(teacher, shape, layers, importance=importance)
    source = {name: tensor.numpy() for name, tensor in teacher.state_dict().items()}
    remaining = {name: tensor.numpy() for name, tensor in student.state_dict().items()}
    for name, (origin, indices) in expected_weights(family, parts).items():
        if not name.endswith(".weight"):
            biases = source[f"{origin}.bias"][np.ix_(indices[0])]
            np.testing.assert_array_equal(remaining.pop(f"{name}.bias"), biases)
        name, origin = (f"{weight.removesuffix('.weight')}.weight" for weight in (name, origin))
        np.testing.assert_array_equal(remaining.pop(name), source[origin][np.ix_(*indices)])
    assert not remaining, "unchecked weights of the student"


@pytest.mark.parametrize(("heads", "channels"), [(2, 6), (3, 4), (4, 3)])
def test_removing_heads_and_channels_removes_exactly_their_contribution(heads: int, channels: int) -> None:
    # A teacher whose second half of hidden channels repeats the first and is never read computes with its first half
    # what a student without the second half does, so that heads can be left out at an unchanged function elsewhere.
    half = HIDDEN // 2
    teacher = teacher_of(dtype=torch.float64)
    _, parts = chosen(teacher, shape_of(hidden=half, heads=heads), (0, 1, 2), seed=5)
    parts = replace(parts, hidden_channels=tuple(range(half)))
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if any(part in name for part in ("query", "key", "value", "intermediate")):
                if weight.ndim == 2:
                    weight[:, half:] = 0
            elif "embeddings.weight" in name:
                weight[:, half:] = weight[:, :half]
            else:
                weight[half:] = weight[:half]
    config = student_config(teacher.config, shape_of(hidden=half, heads=heads))
    student = extract_student(teacher, config, parts)
    kept = states(student)
    assert not torch.allclose(states(teacher)[:, :half], kept, atol=1e-3)
    with torch.no_grad():
        for block, layer in enumerate(teacher.encoder.layer):
            query = rows_of(parts.heads[block], parts.query_channels[block])
            value = rows_of(parts.heads[block], parts.value_channels[block])
            attention = layer.attention.self
            # Narrower heads divide their scores by the root of a smaller width.
            attention.query.weight *= (WIDTH / channels) ** 0.5
            attention.query.bias *= (WIDTH / channels) ** 0.5
            left_out = [row for row in range(HIDDEN) if row not in query]
            attention.query.weight[left_out] = 0
            attention.query.bias[left_out] = 0
            unread = [row for row in range(HIDDEN) if row not in value]
            layer.attention.output.dense.weight[:, unread] = 0
    torch.testing.assert_close(states(teacher)[:, :half], kept, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_removing_neurons_removes_exactly_their_contribution(family: str) -> None:
    teacher = teacher_of(family, dtype=torch.float64)
    student, parts = extracted(teacher, shape_of(neurons=8), (0, 1, 2))
    kept = states(student)
    outputs = {"bert": "output.dense", "distilbert": "ffn.lin2", "modernbert": "mlp.Wo"}
    blocks = {"bert": "encoder.layer", "distilbert": "transformer.layer", "modernbert": "layers"}
    with torch.no_grad():
        for block in range(LAYERS):
            output = teacher.get_submodule(f"{blocks[family]}.{block}.{outputs[family]}")
            output.weight[:, [j for j in range(NEURONS) if j not in parts.neurons[block]]] = 0
    torch.testing.assert_close(states(teacher), kept, rtol=1e-10, atol=1e-12)


def test_removing_a_block_equals_the_teacher_without_it() -> None:
    teacher = teacher_of()
    student, _ = extracted(teacher, shape_of(layers=2), (0, 2))
    teacher.encoder.layer = nn.ModuleList([teacher.encoder.layer[0], teacher.encoder.layer[2]])
    assert torch.equal(states(student), states(teacher))


def test_modernbert_blocks_keep_their_kind_of_attention() -> None:
    teacher = teacher_of("modernbert")
    assert teacher.config.layer_types == ["full_attention", *["sliding_attention"] * 2]
    student, _ = extracted(teacher, shape_of(layers=2), (0, 2))
    assert student.config.layer_types == ["full_attention", "sliding_attention"]
    teacher.layers = nn.ModuleList([teacher.layers[0], teacher.layers[2]])
    teacher.config.num_hidden_layers, teacher.config.layer_types = 2, student.config.layer_types
    assert torch.equal(states(student), states(teacher))


def test_extraction_changes_neither_the_random_state_nor_the_teacher() -> None:
    teacher = teacher_of()
    weights = copy.deepcopy(teacher.state_dict())
    before = torch.random.get_rng_state()
    student, _ = extracted(teacher, shape_of(2, 12, 3, 7), (0, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.state_dict().items())


def test_a_student_has_the_precision_of_the_teachers_weights_regardless_of_the_config() -> None:
    teacher = teacher_of()
    teacher.config.dtype = torch.float16
    student, _ = extracted(teacher, shape_of(1, 12, 3, 7), (0,))
    assert student.dtype == torch.float32
