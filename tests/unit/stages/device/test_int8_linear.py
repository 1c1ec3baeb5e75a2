"""Teachers in 8-bit integers: arithmetic, error, what is replaced, and independence from the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from schemas.core.errors import ConfigError
from stages.data.batching.payloads import Targets
from stages.data.batching.tokens import Batch
from stages.device.int8_linear import Int8Linear, int8_linears
from stages.device.runtime import Runtime
from stages.models.attention_capture import record_attention
from stages.objective.terms import Needs, run_model
from tests.support.families import READABLE, family_config


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_vnni", [True, False])
def test_products_equal_integer_arithmetic(*, bias: bool, with_vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: with_vnni)
    layer = linear(48, 24, bias=bias)
    states = torch.randn(7, 48) * torch.logspace(-2, 2, 7)[:, None]
    weight, rows = layer.weight.detach().numpy(), states.numpy()
    weight_scale = np.abs(weight).max(1, keepdims=True) / np.float32(127 if with_vnni else 63)
    row_scale = np.abs(rows).max(1, keepdims=True) / np.float32(127)
    sums = np.rint(rows / row_scale).astype(np.int64) @ np.rint(weight / weight_scale).astype(np.int64).T
    expected = sums.astype(np.float32) * row_scale * weight_scale.T
    if bias:
        expected += layer.bias.detach().numpy()
    np.testing.assert_allclose(Int8Linear(layer)(states).numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [torch.float32, torch.bfloat16])
def test_the_error_is_about_a_hundredth(number: torch.dtype) -> None:
    layer, states = linear(384, 1536), torch.randn(3, 11, 384)
    exact = layer(states).detach()
    output = Int8Linear(layer)(states.to(number))
    assert output.dtype == number
    assert output.shape == exact.shape
    assert 0.002 < float((output.float() - exact).norm() / exact.norm()) < 0.02


def test_a_row_does_not_depend_on_its_batch() -> None:
    layer, states = Int8Linear(linear(64, 32)), torch.randn(45, 64)
    together = layer(states)
    assert torch.equal(together, torch.cat([layer(row[None]) for row in states]))
    assert torch.equal(torch.zeros(2, 32) + layer.get_buffer("bias_O"), layer(torch.zeros(2, 64)))


def test_pooler_and_head_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(family_config("bert"))
    int8_linears(model)
    exact = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert exact == {"bert.pooler.dense", "classifier"}
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 6 * model.config.num_hidden_layers


@pytest.mark.parametrize("family", READABLE)
def test_every_family_is_read_as_before(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(family_config(family)).eval()
    quick = Runtime("fp32").frozen(model, int8=True)
    assert any(isinstance(module, Int8Linear) for module in quick.modules())
    layers = range(model.config.num_hidden_layers)
    needs = Needs.after_blocks(layers)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    batch = Batch(torch.randint(5, 20, (2, 9)) * mask, mask, None, Targets(), 15)
    with torch.no_grad():
        exact, rounded = (run_model(each, batch, needs).hidden for each in (model, quick))
        with record_attention(layers, model) as before:
            model(**batch.model_inputs())
        with record_attention(layers, quick) as after:
            quick(**batch.model_inputs())
    assert before.attention.keys() == after.attention.keys()
    for depth, states in exact.items():
        real = mask.bool()
        error = (rounded[depth] - states)[real].norm() / states[real].norm()
        assert error < 0.1, depth


def test_an_accelerator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime("fp32")
    monkeypatch.setattr(runtime, "device", torch.device("cuda"))
    with pytest.raises(ConfigError, match="teacher_precision is int8, which is for CPUs, and this machine trains on"):
        runtime.check_int8()
