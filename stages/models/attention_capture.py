"""Capture of queries, keys and values in chosen layers of a running model, without materialising attention maps.

transformers allows attention functions to be registered by name. The one here records its arguments and calls the SDPA
forward, so that a model loaded with `attn_implementation=CAPTURE` computes exactly what it computes with `sdpa`.
`output_attentions` would force eager attention instead and keep every map of every layer. Families that call none of
these functions are read at their own modules instead (`attention_modules`).

Layers are numbered by the order of the calls within a forward pass: some families have no `layer_idx`, and ALBERT
calls one module for every layer.

With grouped queries (EuroBERT) several query heads share a head of keys and values. The recorded keys and values are
repeated to one head per query head, as the attention itself reads them, so that scores and relations need no special
case.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoModel, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from stages.models.attention_modules import Attention, attention_modules, hooked_attention
from stages.models.dropout import keyed_attention

CAPTURE = "distill_capture"


@dataclass
class Recording:
    """Attention inputs recorded in a forward pass."""

    layers: Collection[int]
    attention: dict[int, Attention] = field(default_factory=dict)
    calls: int = 0
    """Number of layers that attended; of families with modules of their own, only recorded layers count."""

    def keep(self, layer: int, attention: Attention) -> None:
        """Record the attention of one layer."""
        self.attention[layer] = attention
        self.calls += 1


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def record_attention(layers: Collection[int], model: torch.nn.Module | None = None) -> Iterator[Recording]:
    """Inside the block, a forward pass records the attention of some layers.

    Args:
        layers: their numbers; 0 is the first block.
        model: the model that is run, hooked if its family does not use transformers' attention interface.
    """
    recording = Recording(layers)
    hooks = nullcontext() if model is None else hooked_attention(model, layers, recording.keep)
    token = _recording.set(recording)
    try:
        with hooks:
            yield recording
    finally:
        _recording.reset(token)


def _capturing_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    if (recording := _recording.get()) is not None:
        if recording.calls in recording.layers:
            scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
            recording.attention[recording.calls] = Attention(
                query, _one_per_query_head(key, query), _one_per_query_head(value, query), scaling
            )
        recording.calls += 1
    with keyed_attention(kwargs.get("dropout", 0.0)):
        return _attend(module, query, key, value, attention_mask, **kwargs)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        return _attention_in_float32(module, query, key, value, attention_mask, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _one_per_query_head(states: Tensor, query: Tensor) -> Tensor:
    """Keys or values with each head repeated for the consecutive query heads that share it."""
    shared_by = query.shape[1] // states.shape[1]
    return states if shared_by == 1 else states.repeat_interleave(shared_by, dim=1)


def _attention_in_float32(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """SDPA in float32: on a CPU its bf16 backward takes 2 to 7 times as long (torch 2.13) and is less exact."""
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return output.to(query.dtype), None


AttentionInterface.register(CAPTURE, _capturing_attention)
AttentionMaskInterface.register(CAPTURE, sdpa_mask)


@dataclass(frozen=True)
class Probe:
    """Readable parts of a model: for each part None, or the reason why it cannot be read."""

    hidden_states: str | None
    """The embedding output and every block's output, from the tokens alone."""
    attention: str | None
    """Queries, keys and values of every block."""
    implementation: str | None = None
    """Attention implementation that records them; None for the family's default."""


def probe(config: PretrainedConfig) -> Probe:
    """Find out which parts of a model of this config can be read, by running random weights on a few tokens.

    Runs on the meta device, which takes milliseconds and no memory. Families whose code creates tensors of computed
    lengths (Longformer) are built and run for real.
    """
    problem = ""
    for implementation in (CAPTURE, None):
        try:
            run = _run_on_few_tokens(config, implementation)
        except Exception as error:  # a family's code may raise anything
            problem = problem or f"it does not run on tokens alone ({str(error).strip() or error!r})"
            continue
        attention = _attention_problem(config, run)
        return Probe(
            _hidden_problem(config, run.hidden), attention, CAPTURE if attention is None and not run.hooked else None
        )
    return Probe(problem, problem)


_PROBE_TOKENS = 8


@dataclass(frozen=True)
class _Run:
    """Readable parts of a pass over a few tokens."""

    hidden: Any
    recording: Recording
    hooked: bool
    """True if attention was recorded at the family's own modules."""


def _run_on_few_tokens(config: PretrainedConfig, implementation: str | None) -> _Run:
    chosen = {} if implementation is None else {"attn_implementation": implementation}

    def run() -> _Run:
        model = AutoModel.from_config(copy.deepcopy(config), **chosen).eval()
        tokens = torch.zeros(1, _PROBE_TOKENS, dtype=torch.long)
        with torch.no_grad(), record_attention(range(config.num_hidden_layers), model) as recording:
            output = model(input_ids=tokens, output_hidden_states=True)
        return _Run(getattr(output, "hidden_states", None), recording, bool(attention_modules(model)))

    try:
        with torch.device("meta"), _MetaScalarsAreOne():
            return run()
    except (RuntimeError, NotImplementedError):
        with torch.random.fork_rng(devices=[]):
            return run()


class _MetaScalarsAreOne(TorchDispatchMode):
    """Reads 1 from any meta tensor, so that code such as "is nothing padded?" runs on the meta device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return func(*args, **(kwargs or {}))


def _hidden_problem(config: PretrainedConfig, hidden: Any) -> str | None:
    expected = [(1, _PROBE_TOKENS, config.hidden_size)] * (config.num_hidden_layers + 1)
    if not isinstance(hidden, tuple | list):
        return "it returns no hidden states"
    if [tuple(states.shape) for states in hidden] != expected:
        return (
            f"it returns {len(hidden)} hidden states, not the embedding output and one for each of its "
            f"{config.num_hidden_layers} layers, all {config.hidden_size} wide"
        )
    return None


def _attention_problem(config: PretrainedConfig, run: _Run) -> str | None:
    recording = run.recording
    if recording.calls != config.num_hidden_layers:
        return (
            f"{recording.calls} of its {config.num_hidden_layers} layers hand their queries, keys and values to "
            "transformers' attention interface"
        )
    for layer, states in recording.attention.items():
        heads = {part.shape[1] for part in (states.query, states.key, states.value)}
        if heads != {config.num_attention_heads}:
            why = ": the others are convolutions" if config.model_type == "convbert" else ""
            return (
                f"layer {layer} has {sorted(heads)} heads of queries, keys and values, its config says "
                f"{config.num_attention_heads}{why}"
            )
    return None
