"""Notes queries, keys and values of chosen layers while a model runs, without materialising an attention map.

transformers lets one register an attention function by name. Ours notes what it is handed and then calls the SDPA
forward, so a model loaded with `attn_implementation=CAPTURE` computes exactly what it computes with `sdpa`. Asking for
`output_attentions` instead would force eager attention and hold every map of every layer.

Layers are numbered by the order of the calls within a forward pass: some families have no `layer_idx`, and ALBERT
calls one module for every layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModel, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

CAPTURE = "distill_capture"


class Attention(NamedTuple):
    """What one layer's attention was handed."""

    query: Tensor
    """(batch, heads, sequence, head width)."""
    key: Tensor
    """(batch, heads, sequence, head width)."""
    value: Tensor
    """(batch, heads, sequence, head width)."""
    scaling: float
    """The factor on query · key."""


@dataclass
class Recording:
    """What a forward pass left behind."""

    layers: Collection[int]
    attention: dict[int, Attention] = field(default_factory=dict)
    calls: int = 0


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def record_attention(layers: Collection[int]) -> Iterator[Recording]:
    """Every forward pass of one model inside the block notes the attention of `layers` (0 the first block)."""
    recording = Recording(layers)
    token = _recording.set(recording)
    try:
        yield recording
    finally:
        _recording.reset(token)


def _capturing_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if (recording := _recording.get()) is not None:
        if recording.calls in recording.layers:
            scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
            recording.attention[recording.calls] = Attention(query, key, value, scaling)
        recording.calls += 1
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        return _attention_in_float32(module, query, key, value, attention_mask, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _attention_in_float32(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA in float32: on a CPU its bf16 backward takes 2 to 7 times as long (torch 2.13), and is less exact."""
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.to(query.dtype), None


AttentionInterface.register(CAPTURE, _capturing_attention)
AttentionMaskInterface.register(CAPTURE, sdpa_mask)


def can_capture(config: PretrainedConfig) -> bool:
    """Whether a model of this config hands every layer's attention to a registered function.

    Runs the model once on shapes alone (the meta device), so it costs milliseconds and no memory.
    """
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, attn_implementation=CAPTURE).eval()
            with record_attention(()) as recording:
                model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    except (ValueError, RuntimeError, NotImplementedError):
        return False
    return recording.calls == config.num_hidden_layers
