"""A frozen copy of a model keeps its buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from stages.device.runtime import Runtime
from stages.models.encoders import attention_of
from tests.support.families import FAMILIES, family_config

ROTARY = [name for name in ("modernbert", "nomic_bert", "gte", "eurobert") if name in FAMILIES]
TOKENS = 512


def a_model(family: str) -> PreTrainedModel:
    config = family_config(family, layers=2, width=64, heads=2, inner=128, max_position_embeddings=TOKENS + 8)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(config, **attention_of(config)).eval()
    return model


def states(model: nn.Module, runtime: Runtime) -> Tensor:
    """Return the last states of the real tokens of two rows, one of them padded."""
    ids = torch.randint(5, 60, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 300:] = 0
    with torch.no_grad(), runtime.autocast():
        states_of_tokens: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    return states_of_tokens.float()


@pytest.mark.parametrize("family", ROTARY)
def test_rotary_positions_of_a_frozen_teacher_keep_their_precision_in_long_rows(family: str) -> None:
    model, runtime = a_model(family), Runtime("bf16")
    exact = states(model, Runtime("fp32"))
    frozen = states(runtime.frozen(model), runtime)
    rounded = states(model.to(torch.bfloat16), runtime)  # frequencies too
    assert float((frozen - exact).norm()) < 0.6 * float((rounded - exact).norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_keeps_the_dtype_of_buffers_in_every_family(family: str) -> None:
    model, runtime = a_model(family), Runtime("bf16")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    frozen = runtime.frozen(model)
    after = dict(frozen.named_buffers())
    assert before.keys() == after.keys()
    for name, buffer in before.items():
        assert after[name].dtype == buffer.dtype
        assert torch.equal(after[name], buffer)
    assert {parameter.dtype for parameter in frozen.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert bool(states(frozen, runtime).isfinite().all())


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [("", True), ("all", True), ("AVX512_CORE_BF16", True), ("AVX512_CORE_AMX", True), ("AVX10_1_512", True)]
    + [(name, False) for name in ("AVX2", "avx512_core", "AVX512_CORE_VNNI", "SSE41")],
)
def test_bf16_is_not_chosen_where_its_instructions_are_forbidden(
    limit: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert Runtime().bf16 is allowed
