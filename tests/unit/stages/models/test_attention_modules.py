"""Attention recorded at a family's own modules equals the model's attention, including its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig

from stages.losses import attention_scores
from stages.models.attention_capture import record_attention
from stages.models.attention_modules import Attention, attention_modules
from tests.support.families import HOOKED, family_config

DEBERTAS: dict[str, dict[str, Any]] = {
    "both ways": {},
    "contents to positions": {"pos_att_type": ["c2p"]},
    "positions to contents": {"pos_att_type": ["p2c"]},
    "no kind of position": {"pos_att_type": []},
    "no relative positions": {"relative_attention": False, "pos_att_type": []},
    "as published": {
        "share_att_key": True,
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "short range": {"max_relative_positions": 3},
}
CONFIGS = {
    **{name: family_config(name) for name in HOOKED},
    **{f"deberta-v2, {name}": family_config("deberta-v2", **changes) for name, changes in DEBERTAS.items()},
    "roformer, values rotated": family_config("roformer", rotary_value=True),
    "mpnet, wide": family_config("mpnet", width=24, heads=6),
}
LENGTHS = (11, 3, 7, 1)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> PretrainedConfig:
    return CONFIGS[request.param]


def model_of(config: PretrainedConfig) -> nn.Module:
    torch.manual_seed(0)
    # In float64, so that no difference hides behind rounding.
    model = AutoModel.from_config(config, attn_implementation="eager", dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # biases and position tables may start at 0
    return model


def inputs() -> dict[str, Tensor]:
    mask = torch.stack([torch.arange(max(LENGTHS)) < length for length in LENGTHS])
    return {"input_ids": torch.randint(5, 100, mask.shape).masked_fill(~mask, 0), "attention_mask": mask.long()}


def probabilities(attention: Attention, mask: Tensor) -> Tensor:
    """(batch, heads, sequence, sequence): 0 where query or key is padding, as the loss sees them."""
    scores = attention_scores(
        attention.query, attention.key, mask, scaling=attention.scaling, bias_BASS=attention.score_bias()
    )
    return scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1) * pairs(mask)


def pairs(mask: Tensor) -> Tensor:
    real = mask.bool()
    return (real[:, None, :, None] & real[:, None, None]).double()


def recorded(model: nn.Module, tokens: dict[str, Tensor]) -> tuple[dict[int, Attention], tuple[Tensor, ...]]:
    """What is recorded of each layer, and the model's own attention of the same pass."""
    with record_attention(range(3), model) as recording:
        maps = model(**tokens, output_attentions=True).attentions
    assert sorted(recording.attention) == list(range(len(maps))) == [0, 1, 2]
    return recording.attention, maps


def test_recorded_probabilities_equal_those_of_the_model(config: PretrainedConfig) -> None:
    model, tokens = model_of(config), inputs()
    with torch.no_grad():
        attention, maps = recorded(model, tokens)
    mask = tokens["attention_mask"].bool()
    for layer, expected in enumerate(maps):
        actual = probabilities(attention[layer], mask)
        torch.testing.assert_close(actual, expected * pairs(mask), rtol=0, atol=1e-7)
        assert float((expected - maps[layer - 1]).abs().max()) > 0.01
    assert all(states.shape == (4, config.num_attention_heads, 11, 16 // 2) for states in attention[0][:3]) or (
        config.num_attention_heads == 6
    )


def test_recorded_values_are_those_averaged_by_the_model(config: PretrainedConfig) -> None:
    model, tokens = model_of(config), inputs()
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
        for module, _ in attention_modules(model)
    ]
    with torch.no_grad():
        attention, maps = recorded(model, tokens)
        for layer, (module, _) in enumerate(attention_modules(model)):
            context = (maps[layer] @ attention[layer].value).transpose(1, 2).flatten(2)
            expected = module.o(context) if config.model_type == "mpnet" else context
            torch.testing.assert_close(outputs[layer], expected)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_those_through_the_models_attention(config: PretrainedConfig, *, training: bool) -> None:
    config = type(config)(**config.to_dict() | {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.2})
    model, tokens = model_of(config).train(training), inputs()
    attention, maps = recorded(model, tokens)
    mask = tokens["attention_mask"].bool()
    weights = torch.randn(3, *maps[0].shape, dtype=torch.float64) * pairs(mask)
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def gradients(of_layer: Callable[[int], Tensor]) -> dict[str, Tensor]:
        loss = torch.stack([(of_layer(layer) * weights[layer]).sum() for layer in range(3)]).sum()
        computed = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        return {name: grad for name, grad in zip(parameters, computed, strict=True) if grad is not None}

    expected = gradients(lambda layer: maps[layer])
    actual = gradients(lambda layer: probabilities(attention[layer], mask))
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        # DeBERTa computes its scaling in float32.
        assert (actual[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, name
    if config.model_type == "mpnet":
        assert expected["encoder.relative_attention_bias.weight"].abs().max() > 1e-3


@pytest.mark.parametrize("family", HOOKED)
def test_hooks_are_removed_after_the_pass(family: str) -> None:
    model, tokens = model_of(family_config(family)), inputs()
    with torch.no_grad():
        with record_attention({1}, model) as recording:
            states = model(**tokens).last_hidden_state
        assert recording.attention.keys() == {1}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert torch.equal(model(**tokens).last_hidden_state, states)
        with pytest.raises(IndexError), record_attention({0}, model):
            model(input_ids=tokens["input_ids"] + 1000)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", HOOKED)
def test_a_bias_does_not_depend_on_padding_or_on_other_rows(family: str) -> None:
    model, tokens = model_of(family_config(family)), inputs()
    with torch.no_grad():
        together, _ = recorded(model, tokens)
        for row, length in enumerate(LENGTHS):
            alone, _ = recorded(model, {name: states[row : row + 1, :length] for name, states in tokens.items()})
            for layer in range(3):
                for whole, part in zip(together[layer][:3], alone[layer][:3], strict=True):
                    torch.testing.assert_close(whole[row, :, :length], part[0])
                bias, expected = together[layer].score_bias(), alone[layer].score_bias()
                assert (bias is None) == (expected is None) == (family not in ("mpnet", "deberta-v2"))
                if bias is not None and expected is not None:
                    bias = bias.expand(len(LENGTHS), -1, -1, -1)[row, :, :length, :length]
                    torch.testing.assert_close(bias, expected[0])


@pytest.mark.parametrize("family", HOOKED)
def test_scores_are_in_float32_under_autocast(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(family_config(family)).eval()
    tokens = inputs()
    mask = tokens["attention_mask"].bool()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention, maps = recorded(model, tokens)
        for layer, expected in enumerate(maps):
            actual = probabilities(attention[layer], mask)
            torch.testing.assert_close(actual, expected.double() * pairs(mask), rtol=0, atol=0.02)
            bias = attention[layer].score_bias()
            assert bias is None or bias.dtype == torch.float32
