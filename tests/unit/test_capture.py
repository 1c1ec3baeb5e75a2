"""Capturing attention changes nothing, numbers layers by call, and says which families allow it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
)

from stages.capture import CAPTURE, can_capture, record_attention

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def both(config: PretrainedConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    # A config remembers the last implementation it was loaded with, so each model gets one of its own.
    ours = AutoModel.from_config(deepcopy(config), attn_implementation=CAPTURE).eval()
    plain = AutoModel.from_config(deepcopy(config), attn_implementation="sdpa").eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(
    "config", [BertConfig(**SMALL), RobertaConfig(**SMALL), AlbertConfig(embedding_size=8, **SMALL)]
)
def test_a_capturing_model_computes_what_sdpa_computes_bit_for_bit(
    config: PretrainedConfig,
) -> None:
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


def test_captured_scores_are_those_behind_the_attention_map() -> None:
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


def test_nothing_is_noted_outside_a_recording() -> None:
    ours, _ = both(BertConfig(**SMALL))
    with record_attention({0}) as recording:
        pass
    ours(input_ids=torch.randint(5, 50, (1, 4)))
    assert recording.calls == 0
    assert not recording.attention


def test_attention_in_float32_under_bf16_autocast_keeps_the_gradient() -> None:
    ours, plain = both(
        BertConfig(**SMALL, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)
    )
    ids = torch.randint(5, 50, (2, 7))
    weights = torch.randn(2, 7, 16)
    gradients = []
    for model in (ours, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (model(input_ids=ids).last_hidden_state.float() * weights).sum().backward()
        gradients.append(model.get_parameter("encoder.layer.0.attention.self.query.weight").grad)
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert float(error) < 0.05


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BertConfig(**SMALL), True),
        (RobertaConfig(**SMALL), True),
        (ElectraConfig(**SMALL), True),
        (AlbertConfig(embedding_size=8, **SMALL), True),
        (DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32), True),
        (MPNetConfig(**SMALL), False),
        (DebertaV2Config(**SMALL), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_families_that_can_be_read_are_told_apart(config: PretrainedConfig, expected: bool) -> None:
    assert can_capture(config) is expected
