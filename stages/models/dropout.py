"""Dropout that draws the same however a step is cut into forward passes.

torch's dropout reads one generator in the order of the calls, so another cut of a step's rows, or another padding,
draws other masks. Here every number is a hash of what it is for: the seed, the step, the row, the place (which dropout
of the forward pass) and the position within the row. So the gradient of a step depends neither on
`execution.microbatch_tokens` nor on a pass that was halved; and there is no
generator whose state a resumed run would need.

A row's positions get 32-bit keys from splitmix64 (Steele, Lea and Flood 2014); a feature is kept where the product of
the position's key and the feature's odd multiplier, modulo 2^32, is not below the probability. That is one
multiplication and one comparison a number, less than torch's own generator takes on a CPU (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from stages.data.batching.tokens import Batch, Tokens
from stages.device.runtime import seed_step

_GOLDEN = 0x9E3779B97F4A7C15
_ALL_BITS = 0xFFFFFFFFFFFFFFFF
# Rows among which short ones are taken for the look at a model's tensors.
_LOOKED_AT = 64
Keys = NDArray[np.uint64]


class Draws:
    """The dropout of one model in one stage."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        """Make every dropout module of `model` draw from here while it runs inside `of`.

        Args:
            model: the model that is trained, on its device.
            seed: of the stage.
        """
        self.seed = seed
        self.row_axes: dict[int, int | None] = {}
        """Which axis of a place's tensor counts the rows; None where all rows share it."""
        self.unkeyed: set[int] = set()
        """Places whose tensors have no axis for the rows."""
        self.calls_functions = False
        """Whether the model calls dropout as a function, outside its modules."""
        self._multipliers: dict[tuple[int, int], Tensor] = {}
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = KeyedDropout

    def look_at(self, run: Callable[[Batch], object], tokens: Tokens, device: torch.device) -> None:
        """Find out how the model's tensors are laid out, by running it on two rows and on three.

        Args:
            run: one forward pass in training mode.
            tokens: the stage's text.
            device: where the model is.
        """
        shapes: list[list[tuple[int, ...]]] = []
        short, other = np.resize(np.argsort(tokens.lengths[:_LOOKED_AT], kind="stable"), 2)
        for rows in ([short, other], [short, other, short]):
            batch = tokens.batch(np.array(rows)).to(device)
            this = _Pass(self, 0, batch)
            this.shapes = []
            shapes.append(this.shapes)
            with torch.no_grad(), _running(this), _Functions(this) as functions:
                run(batch)
            self.calls_functions |= functions.called
        for place, (two, three) in enumerate(zip(*shapes, strict=False)):
            differing = [axis for axis, sizes in enumerate(zip(two, three, strict=True)) if len(set(sizes)) > 1]
            self.row_axes[place] = differing[0] if differing else None
            if len(differing) > 1 or (differing and two[differing[0]] != 2):
                self.unkeyed.add(place)

    @contextmanager
    def of(self, step: int, batch: Batch) -> Iterator[None]:
        """Inside the block one forward pass over `batch` draws what optimizer step `step` draws for its rows."""
        # Whatever else is drawn, such as the layers that are left out of a step, is alike in all its passes.
        seed_step(self.seed, step)
        this = _Pass(self, step, batch)
        functions: AbstractContextManager[Any] = _Functions(this) if self.calls_functions else nullcontext()
        with _running(this), functions:
            yield

    def multipliers(self, place: int, axis: int, size: int, device: torch.device) -> Tensor:
        """(size,) int32, odd: those of the positions along one axis at one place; the same in every step."""
        kept = self._multipliers.get((place, axis))
        if kept is None or len(kept) < size:
            start = _mixed_number(_mixed_number(self.seed) + place * 16 + axis + 1)
            kept = _positions(np.array([start], np.uint64), size)[0].to(device) | 1
            self._multipliers[place, axis] = kept
        return kept[:size]


class _Pass:
    """What one forward pass draws; counts its places."""

    def __init__(self, draws: Draws, step: int, batch: Batch) -> None:
        self.draws, self.place = draws, 0
        self.device = batch.input_ids.device
        self.shapes: list[tuple[int, ...]] | None = None
        """Where nothing is drawn: those of the tensors that were to be."""
        rows = np.arange(len(batch.input_ids)) if batch.indices is None else batch.indices
        start = _mixed_number(_mixed_number(draws.seed) ^ _mixed_number(step + 1))
        self._keys = {
            True: _mixed(np.uint64(start) + rows.astype(np.uint64) * np.uint64(_GOLDEN)),
            False: np.array([_mixed_number(start)], np.uint64),
        }
        self._positions: dict[bool, Tensor] = {}

    def dropped(self, states: Tensor, probability: float) -> Tensor:
        """`states` with dropout, scaled as `nn.Dropout` does."""
        place, self.place = self.place, self.place + 1
        if self.shapes is not None:
            self.shapes.append(tuple(states.shape))
            return states
        if place in self.draws.unkeyed or not states.ndim:
            kept = torch.empty_like(states, requires_grad=False).bernoulli_(1 - probability)
            return (states * kept).mul_(1 / (1 - probability))
        axis = self.draws.row_axes.get(place, 0)
        if axis is None:
            keep = self._keep(place, (1, *states.shape), probability, by_row=False)[0]
        elif axis:
            shape = (states.shape[axis], *states.shape[:axis], *states.shape[axis + 1 :])
            keep = self._keep(place, shape, probability, by_row=True).movedim(0, axis)
        else:
            keep = self._keep(place, states.shape, probability, by_row=True)
        return (states * keep).mul_(1 / (1 - probability))

    def _keep(self, place: int, shape: Sequence[int], probability: float, *, by_row: bool) -> Tensor:
        """Which numbers of a tensor stay, bool; its first axis counts the rows.

        The keys of all positions along the axes but the last are drawn out one axis after the other, each by its own
        multipliers, so that a position's key does not depend on how long any axis is.
        """
        keys = self._first(shape, by_row=by_row)
        if len(shape) == 1:
            keys = keys * self.draws.multipliers(place, 0, 1, self.device)
        for axis in range(keys.ndim, len(shape)):
            if axis > 2:
                keys = keys ^ (keys >> 15)
            own = self.draws.multipliers(place, axis, shape[axis], self.device)
            keys = keys.unsqueeze(-1) * own
        threshold = min(round(probability * 2**32) - 2**31, 2**31 - 1)
        return keys >= threshold

    def _first(self, shape: Sequence[int], *, by_row: bool) -> Tensor:
        """(rows,) int32 keys where a row is one line of numbers, else (rows, positions)."""
        if len(shape) < 3:
            return _halves(self._keys[by_row]).to(self.device)
        kept = self._positions.get(by_row)
        if kept is None or kept.shape[1] < shape[1]:
            kept = _positions(self._keys[by_row], shape[1]).to(self.device)
            self._positions[by_row] = kept
        return kept[:, : shape[1]]

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """`scaled_dot_product_attention` with dropout; torch's own takes these steps too where it has no fused kernel.

        Args:
            query: (batch, heads, queries, width).
            key: (batch, heads, keys, width).
            value: (batch, heads, keys, width).
            attn_mask: True where a query may look, or numbers that are added to the scores; broadcast.
            dropout_p: the probability.
            is_causal: whether a query sees no later keys.
            scale: factor on query · key; 1 / sqrt(width) by default.
            enable_gqa: whether several heads of queries share one of keys and values.
        """
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # Not an infinity: what a padded query sees may be nothing at all.
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = self.dropped(scores.softmax(-1), dropout_p)
        return weights.to(value.dtype) @ value


_pass: ContextVar[_Pass | None] = ContextVar("dropout", default=None)


@contextmanager
def _running(this: _Pass) -> Iterator[None]:
    token = _pass.set(this)
    try:
        yield
    finally:
        _pass.reset(token)


class KeyedDropout(nn.Dropout):
    """`nn.Dropout` whose draws are keyed inside `Draws.of`, and torch's own outside."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        this = _pass.get()
        if this is None or not self.training or not self.p:
            return super().forward(input)
        return this.dropped(input, self.p)


class _Functions(TorchFunctionMode):
    """Keys the draws of dropout that is called as a function; slows every other call, so it is kept short."""

    def __init__(self, this: _Pass) -> None:
        super().__init__()
        self.this, self.called = this, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The call itself, where it draws nothing."""
        given = kwargs or {}
        if func in (F.dropout, torch.dropout):
            states, probability, training = _of_dropout(*args, **given)
            if training and probability:
                self.called = True
                return self.this.dropped(states, probability)
        elif func is F.scaled_dot_product_attention and _dropout_of_attention(args, given):
            self.called = True
            return self.this.attention(*args, **given)
        return func(*args, **given)


def _of_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool = True
) -> tuple[Tensor, float, bool]:
    """What `F.dropout` and `torch.dropout` are asked for."""
    return input, p, training and train


def _dropout_of_attention(args: Sequence[Any], given: dict[str, Any]) -> float:
    dropout: float = given.get("dropout_p", args[4] if len(args) > 4 else 0.0)
    return dropout


def keyed_attention(probability: float) -> AbstractContextManager[Any]:
    """Inside the block `scaled_dot_product_attention` draws what the forward pass that runs now draws."""
    this = _pass.get()
    return nullcontext() if this is None or not probability else _Functions(this)


def _mixed(values: Keys) -> Keys:
    """splitmix64's last steps, modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _mixed_number(value: int) -> int:
    return int(_mixed(np.array([(value * _GOLDEN) & _ALL_BITS], np.uint64))[0])


def _positions(keys: Keys, size: int) -> Tensor:
    """(rows,) keys to the (rows, size) int32 keys of their positions."""
    steps = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _halves(_mixed(keys[:, None] + steps[None, :]))


def _halves(keys: Keys) -> Tensor:
    """The upper halves, int32."""
    return torch.from_numpy((keys >> np.uint64(32)).astype(np.uint32).view(np.int32))
