"""Attention capture changes no output, numbers layers by call, and reports the families it supports."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
)

from stages.models.attention_capture import CAPTURE, probe, record_attention
from tests.support.families import CAPTURED, FAMILIES, READABLE, family_config

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def both(config: PretrainedConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    # A config stores the last implementation it was loaded with, so each model gets its own config.
    ours = AutoModel.from_config(deepcopy(config), attn_implementation=CAPTURE).eval()
    plain = AutoModel.from_config(deepcopy(config), attn_implementation="sdpa").eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(
    "config", [BertConfig(**SMALL), RobertaConfig(**SMALL), AlbertConfig(embedding_size=8, **SMALL)]
)
def test_capturing_does_not_change_the_output_bit_for_bit(config: PretrainedConfig) -> None:
    ours, plain = both(config)
    ids = torch.randint(5, 50, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad(), record_attention({0, 2}) as recording:
        states = ours(input_ids=ids, attention_mask=mask).last_hidden_state
    with torch.no_grad():
        assert torch.equal(states, plain(input_ids=ids, attention_mask=mask).last_hidden_state)
    assert sorted(recording.attention) == [0, 2]
    assert recording.calls == 3
    assert recording.attention[0].query.shape == (2, 2, 7, 8)
    assert recording.attention[0].scaling == pytest.approx(8**-0.5)


def test_captured_scores_reproduce_the_attention_map() -> None:
    config = BertConfig(**SMALL)
    ours, _ = both(config)
    eager = AutoModel.from_config(deepcopy(config), attn_implementation="eager").eval()
    eager.load_state_dict(ours.state_dict())
    ids = torch.randint(5, 50, (2, 7))
    with torch.no_grad(), record_attention({1}) as recording:
        ours(input_ids=ids)
    with torch.no_grad():
        expected = eager(input_ids=ids, output_attentions=True).attentions[1]
    noted = recording.attention[1]
    scores = torch.matmul(noted.query * noted.scaling, noted.key.transpose(-1, -2))
    torch.testing.assert_close(scores.softmax(-1), expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_recorded_outside_the_context_manager() -> None:
    ours, _ = both(BertConfig(**SMALL))
    with record_attention({0}) as recording:
        pass
    ours(input_ids=torch.randint(5, 50, (1, 4)))
    assert recording.calls == 0
    assert not recording.attention


def test_attention_in_float32_under_bf16_autocast_keeps_the_gradient() -> None:
    ours, plain = both(BertConfig(**SMALL, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0))
    ids = torch.randint(5, 50, (2, 7))
    weights = torch.randn(2, 7, 16)
    gradients = []
    for model in (ours, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (model(input_ids=ids).last_hidden_state.float() * weights).sum().backward()
        gradients.append(model.get_parameter("encoder.layer.0.attention.self.query.weight").grad)
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert float(error) < 0.05


@pytest.mark.parametrize("family", [family for family in FAMILIES if family in CAPTURED])
def test_recorded_queries_keys_and_values_reproduce_each_layers_attention(family: str) -> None:
    config = family_config(family)
    ours, _ = both(config)
    eager = AutoModel.from_config(deepcopy(config), attn_implementation="eager").eval()
    eager.load_state_dict(ours.state_dict())
    with torch.no_grad():
        # With initial weights attention is nearly uniform, so all layers would match each other.
        for parameter, same in zip(ours.parameters(), eager.parameters(), strict=True):
            parameter.add_(torch.randn_like(parameter) * 0.5)
            same.copy_(parameter)
    ids = torch.randint(5, 50, (2, 7))
    with torch.no_grad(), record_attention(range(3)) as recording:
        ours(input_ids=ids)
    with torch.no_grad():
        maps = eager(input_ids=ids, output_attentions=True).attentions
    assert recording.calls == len(maps) == 3
    for layer, expected in enumerate(maps):
        noted = recording.attention[layer]
        assert noted.query.shape == noted.key.shape == noted.value.shape
        scores = torch.matmul(noted.query * noted.scaling, noted.key.transpose(-1, -2))
        torch.testing.assert_close(scores.softmax(-1), expected, rtol=1e-3, atol=1e-4)
    assert float((maps[0] - maps[1]).abs().max()) > 0.01
    assert float((maps[1] - maps[2]).abs().max()) > 0.01


def test_values_shared_by_query_heads_are_recorded_per_query_head() -> None:
    config = family_config("eurobert", width=24, heads=6, num_key_value_heads=2, head_dim=4)
    ours, _ = both(config)
    ids = torch.randint(5, 50, (2, 7))
    with torch.no_grad(), record_attention({0}) as recording:
        ours(input_ids=ids)
        projected = ours.layers[0].self_attn.v_proj(ours.layers[0].input_layernorm(ours.embed_tokens(ids)))
    noted = recording.attention[0].value
    assert noted.shape == (2, 6, 7, 4)
    for head in range(6):
        first = (head // 3) * 4
        torch.testing.assert_close(noted[:, head], projected[..., first : first + 4])


@pytest.mark.parametrize("family", FAMILIES)
def test_readable_families_are_recognised(family: str) -> None:
    support = probe(family_config(family))
    assert (support.attention is None) is (family in READABLE)
    assert support.implementation == (CAPTURE if family in CAPTURED else None)
    assert support.hidden_states is None


def test_a_model_without_meta_support_is_run_on_the_cpu_without_random_draws() -> None:
    config = AutoConfig.for_model("longformer", attention_window=8, pad_token_id=0, max_position_embeddings=64, **SMALL)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    support = probe(config)
    assert support.hidden_states is None
    assert support.attention is not None
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("config", "hidden_states", "attention"),
    [
        (
            AlbertConfig(embedding_size=8, inner_group_num=2, **SMALL),
            "7 hidden states, not the embedding output and one for each of its 3 layers",
            "6 of its 3 layers",
        ),
        (
            AutoConfig.for_model("xmod", **SMALL),
            "it does not run on tokens alone ('Input language unknown",
            "it does not run on tokens alone ('Input language unknown",
        ),
        (T5Config(d_model=16, num_layers=3, num_heads=2), "does not run on tokens alone", "tokens alone"),
        (AutoConfig.for_model("deberta", **SMALL), None, "0 of its 3 layers"),
        (
            AutoConfig.for_model("convbert", embedding_size=16, **SMALL),
            None,
            "layer 0 has [1] heads of queries, keys and values, its config says 2: the others are convolutions",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_unsupported_outputs_are_reported_with_the_reason(
    config: PretrainedConfig, hidden_states: str | None, attention: str
) -> None:
    support = probe(config)
    assert (support.hidden_states is None) is (hidden_states is None)
    assert hidden_states is None or hidden_states in str(support.hidden_states)
    assert attention in str(support.attention)


class OneHeadConfig(BertConfig):
    model_type = "one_head"


class OneHeadModel(BertModel):
    """Attends with one head regardless of its config."""

    config_class = OneHeadConfig

    def __init__(self, config: OneHeadConfig) -> None:
        super().__init__(config)
        for layer in self.encoder.layer:
            layer.attention.self.attention_head_size = config.hidden_size


def test_a_model_whose_heads_differ_from_its_config_is_not_captured() -> None:
    AutoConfig.register("one_head", OneHeadConfig, exist_ok=True)
    AutoModel.register(OneHeadConfig, OneHeadModel, exist_ok=True)
    support = probe(OneHeadConfig(**SMALL))
    assert support.hidden_states is None
    assert support.attention == "layer 0 has [1] heads of queries, keys and values, its config says 2"
