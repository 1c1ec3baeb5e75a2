"""Queries, keys and values of families that compute attention in a module of their own.

transformers' attention interface is never called by these families (MPNet, DeBERTa-v2, RoFormer, MegatronBERT,
RemBERT). Forward hooks on the projections of each block record their outputs instead. The hooks exist for one forward
pass only, so that copies, files and other passes of the model do not carry them. The outputs stay in the graph: a
student learns through them.

Where a family adds a position bias to its scores, `Attention.bias` computes it again from the model's weights and the
recorded queries and keys, with the model's own function: `query · key * scaling + bias` are the scores that the model
takes the softmax of. Position encodings that rotate queries and keys are applied before they are recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

Bias = Callable[[Tensor, Tensor], Tensor]


class Attention(NamedTuple):
    """Inputs of one layer's attention."""

    query: Tensor
    """(batch, heads, sequence, head width)."""
    key: Tensor
    """(batch, heads, sequence, head width), one head per query head."""
    value: Tensor
    """(batch, heads, sequence, head width), one head per query head."""
    scaling: float
    """Factor on query · key."""
    bias: Bias | None = None
    """Maps queries and keys to the position bias of the scaled scores, (1 or batch, heads, sequence, sequence).

    Depends on nothing else of the batch; None if the family adds none.
    """

    def score_bias(self) -> Tensor | None:
        """Return the position bias of the scaled scores, (1 or batch, heads, sequence, sequence); None if none."""
        if self.bias is None:
            return None
        # In the number format of the weights: bf16 under autocast would be too coarse for a loss.
        with torch.autocast(self.query.device.type, enabled=False):
            return self.bias(self.query, self.key)


@dataclass
class _Call:
    """One call of an attention module."""

    model: nn.Module
    module: Any
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """First output of each recorded submodule, by name."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the call, by name."""

    def keep(self, name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Record the output of a submodule: a forward hook."""
        # DeBERTa may project its position embeddings by the same module, after the tokens' states.
        self.outputs.setdefault(name, output)

    def heads_of(self, name: str) -> Tensor:
        """Return the recorded output as (batch, heads, sequence, head width)."""
        return self.outputs[name].unflatten(-1, (self.module.num_attention_heads, -1)).transpose(1, 2)


class _Reader:
    """Reads the attention of BERT's modules, to which no position is added."""

    query, key, value = "query", "key", "value"
    others: tuple[str, ...] = ()
    """Further submodules whose outputs are read, if the block has them."""

    def read(self, call: _Call) -> Attention:
        """Return the inputs of the attention of a finished call."""
        query, key, value = (call.heads_of(name) for name in (self.query, self.key, self.value))
        return Attention(query, key, value, query.shape[-1] ** -0.5)


class _RoFormer(_Reader):
    """Rotates queries and keys by their positions, and values if the config says so (Su et al. 2021)."""

    @override
    def read(self, call: _Call) -> Attention:
        attention = super().read(call)
        if (angles := call.arguments.get("sinusoidal_pos")) is None:
            return attention
        states = attention[:3] if call.module.rotary_value else attention[:2]
        rotated = call.module.apply_rotary_position_embeddings(angles, *states)
        return Attention(*rotated, *attention[len(states) :])


class _MPNet(_Reader):
    """Adds a bias that depends on the distance and the head, and is shared by all blocks (Song et al. 2020)."""

    query, key, value = "q", "k", "v"

    @override
    def read(self, call: _Call) -> Attention:
        encoder = next(module for module in call.model.modules() if hasattr(module, "compute_position_bias"))
        return super().read(call)._replace(bias=partial(_mpnet_bias, encoder))


def _mpnet_bias(encoder: Any, query: Tensor, _key: Tensor) -> Tensor:
    # One sequence's states, of which the function reads the length: the bias is the same for all.
    bias: Tensor = encoder.compute_position_bias(query[:1, 0])
    return bias


class _DebertaV2(_Reader):
    """Adds attention between contents and relative positions, both ways (He et al. 2021)."""

    query, key, value = "query_proj", "key_proj", "value_proj"
    others = ("pos_dropout",)

    @override
    def read(self, call: _Call) -> Attention:
        attention, module = super().read(call), call.module
        # The scores of contents are divided by the number of kinds of scores too.
        kinds = 1 + ("c2p" in module.pos_att_type) + ("p2c" in module.pos_att_type)
        attention = attention._replace(scaling=(attention.query.shape[-1] * kinds) ** -0.5)
        if not module.relative_attention or kinds == 1:
            return attention
        positions = call.outputs["pos_dropout"]
        return attention._replace(bias=partial(_deberta_bias, module, positions, kinds))


def _deberta_bias(module: Any, positions: Tensor, kinds: int, query: Tensor, key: Tensor) -> Tensor:
    """Return the scores between contents and positions; `positions` are (positions, width), after any dropout."""
    query, key = query.to(positions.dtype), key.to(positions.dtype)
    # Without relative positions the function counts them from the lengths, as the encoder does.
    bias: Tensor = module.disentangled_attention_bias(query.flatten(0, 1), key.flatten(0, 1), None, positions, kinds)
    return bias.unflatten(0, query.shape[:2])


_READERS: Mapping[str, _Reader] = {
    "modeling_mpnet.MPNetSelfAttention": _MPNet(),
    "modeling_deberta_v2.DisentangledSelfAttention": _DebertaV2(),
    "modeling_roformer.RoFormerSelfAttention": _RoFormer(),
    "modeling_megatron_bert.MegatronBertSelfAttention": _Reader(),
    "modeling_rembert.RemBertSelfAttention": _Reader(),
    # Recorded to say how many of its heads attend.
    "modeling_convbert.ConvBertSelfAttention": _Reader(),
}


def attention_modules(model: nn.Module) -> list[tuple[nn.Module, _Reader]]:
    """Return the attention module of each block with its reader; none if the family needs no hooks."""
    found = []
    for module in model.modules():
        kind = type(module)
        if (reader := _READERS.get(f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}")) is not None:
            found.append((module, reader))
    return found


@contextmanager
def hooked_attention(
    model: nn.Module, layers: Collection[int], record: Callable[[int, Attention], None]
) -> Iterator[None]:
    """Inside the block, every forward pass of `model` calls `record` with the number and attention of each of `layers`.

    Does nothing for a family that needs no hooks.
    """
    handles: list[Any] = []
    try:
        for layer, (module, reader) in enumerate(attention_modules(model) if layers else ()):
            if layer in layers:
                handles += _hook(model, module, reader, partial(record, layer))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(model: nn.Module, module: nn.Module, reader: _Reader, record: Callable[[Attention], None]) -> list[Any]:
    call = _Call(model, module)
    parameters = inspect.signature(module.forward)

    def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
        call.outputs, call.arguments = {}, parameters.bind(*args, **kwargs).arguments

    def end(_module: nn.Module, _args: Any, _output: Any) -> None:
        record(reader.read(call))
        call.outputs, call.arguments = {}, {}

    handles: list[Any] = [module.register_forward_pre_hook(begin, with_kwargs=True)]
    submodules = dict(module.named_children())
    for name in (reader.query, reader.key, reader.value, *reader.others):
        if name in submodules:
            handles.append(submodules[name].register_forward_hook(partial(call.keep, name)))
    return [*handles, module.register_forward_hook(end)]
