"""Dropout whose masks do not depend on how a step is cut into forward passes.

torch's dropout reads one generator in the order of the calls, so that another cut of a step's rows, or another padding,
draws other masks. Here every number is a hash of the seed, the step, the row, the site (the number of the dropout call
in the forward pass) and the position within the row. So the gradient of a step depends neither on
`execution.microbatch_tokens` nor on a pass that was halved; and there is no
generator whose state a resumed run would need.

A row's positions get 32-bit keys from splitmix64 (Steele, Lea and Flood 2014); a feature is kept if the product of the
position's key and the feature's odd multiplier, modulo 2^32, is not below the probability. One multiplication and one
comparison per number take less time than torch's own generator on a CPU (docs/performance.md).
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
# Rows among which the shortest are chosen to inspect a model's tensors.
_LOOKED_AT = 64
Keys = NDArray[np.uint64]


class Draws:
    """Keyed dropout of one model in one stage."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        """Make every dropout module of `model` draw keyed masks inside `of`.

        Args:
            model: the student, on its device.
            seed: the stage's seed.
        """
        self.seed = seed
        self.row_axes: dict[int, int | None] = {}
        """Axis of a site's tensor that counts the rows; None if all rows share the tensor."""
        self.unkeyed: set[int] = set()
        """Sites whose tensors have no single axis for the rows."""
        self.calls_functions = False
        """True if the model calls dropout as a function rather than through a module."""
        self._multipliers: dict[tuple[int, int], Tensor] = {}
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = KeyedDropout

    def inspect(self, run: Callable[[Batch], object], tokens: Tokens, device: torch.device) -> None:
        """Find the row axis of each site's tensor by running the model on two rows and on three.

        Args:
            run: one forward pass in training mode.
            tokens: the stage's text.
            device: the model's device.
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
            self.calls_functions |= functions.was_called
        for site, (two, three) in enumerate(zip(*shapes, strict=False)):
            differing = [axis for axis, sizes in enumerate(zip(two, three, strict=True)) if len(set(sizes)) > 1]
            self.row_axes[site] = differing[0] if differing else None
            if len(differing) > 1 or (differing and two[differing[0]] != 2):
                self.unkeyed.add(site)

    @contextmanager
    def of(self, step: int, batch: Batch) -> Iterator[None]:
        """Inside the block, a forward pass over `batch` draws the masks of its rows in optimizer step `step`."""
        # All other draws, such as skipped layers, are the same in all passes of a step.
        seed_step(self.seed, step)
        this = _Pass(self, step, batch)
        functions: AbstractContextManager[Any] = _Functions(this) if self.calls_functions else nullcontext()
        with _running(this), functions:
            yield

    def multipliers(self, site: int, axis: int, size: int, device: torch.device) -> Tensor:
        """Return the odd int32 multipliers, (size,), of the positions along one axis; the same in every step."""
        kept = self._multipliers.get((site, axis))
        if kept is None or len(kept) < size:
            start = _mixed_number(_mixed_number(self.seed) + site * 16 + axis + 1)
            kept = _positions(np.array([start], np.uint64), size)[0].to(device) | 1
            self._multipliers[site, axis] = kept
        return kept[:size]


class _Pass:
    """Masks of one forward pass; counts its dropout sites."""

    def __init__(self, draws: Draws, step: int, batch: Batch) -> None:
        self.draws, self.site = draws, 0
        self.device = batch.input_ids.device
        self.shapes: list[tuple[int, ...]] | None = None
        """While inspecting: shapes of the tensors at each site; nothing is drawn then."""
        rows = np.arange(len(batch.input_ids)) if batch.indices is None else batch.indices
        start = _mixed_number(_mixed_number(draws.seed) ^ _mixed_number(step + 1))
        self._keys = {
            True: _mixed(np.uint64(start) + rows.astype(np.uint64) * np.uint64(_GOLDEN)),
            False: np.array([_mixed_number(start)], np.uint64),
        }
        self._positions: dict[bool, Tensor] = {}

    def dropped(self, states: Tensor, probability: float) -> Tensor:
        """Apply dropout to `states`, scaled as in `nn.Dropout`."""
        site, self.site = self.site, self.site + 1
        if self.shapes is not None:
            self.shapes.append(tuple(states.shape))
            return states
        if site in self.draws.unkeyed or not states.ndim:
            kept = torch.empty_like(states, requires_grad=False).bernoulli_(1 - probability)
            return (states * kept).mul_(1 / (1 - probability))
        axis = self.draws.row_axes.get(site, 0)
        if axis is None:
            keep = self._keep(site, (1, *states.shape), probability, by_row=False)[0]
        elif axis:
            shape = (states.shape[axis], *states.shape[:axis], *states.shape[axis + 1 :])
            keep = self._keep(site, shape, probability, by_row=True).movedim(0, axis)
        else:
            keep = self._keep(site, states.shape, probability, by_row=True)
        return (states * keep).mul_(1 / (1 - probability))

    def _keep(self, site: int, shape: Sequence[int], probability: float, *, by_row: bool) -> Tensor:
        """Return the bool mask of kept numbers; the first axis counts the rows.

        Keys are expanded one axis after the other, each by its own multipliers, so that a position's key does not
        depend on the length of any axis.
        """
        keys = self._first(shape, by_row=by_row)
        if len(shape) == 1:
            keys = keys * self.draws.multipliers(site, 0, 1, self.device)
        for axis in range(keys.ndim, len(shape)):
            if axis > 2:
                keys = keys ^ (keys >> 15)
            keys = keys.unsqueeze(-1) * self.draws.multipliers(site, axis, shape[axis], self.device)
        threshold = min(round(probability * 2**32) - 2**31, 2**31 - 1)
        return keys >= threshold

    def _first(self, shape: Sequence[int], *, by_row: bool) -> Tensor:
        """Return int32 keys: (rows,) if a row is one vector, else (rows, positions)."""
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
        """Compute `scaled_dot_product_attention` with keyed dropout, by the steps of torch's unfused implementation.

        Args:
            query: (batch, heads, queries, width).
            key: (batch, heads, keys, width).
            value: (batch, heads, keys, width).
            attn_mask: True where a query may attend, or numbers added to the scores; broadcast.
            dropout_p: the probability.
            is_causal: whether a query attends to no later keys.
            scale: factor on query · key; 1 / sqrt(width) by default.
            enable_gqa: whether several query heads share one head of keys and values.
        """
        if enable_gqa:
            key, value = (states.repeat_interleave(query.shape[-3] // states.shape[-3], -3) for states in (key, value))
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # Not -inf: a padded query may have nothing to attend to.
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
    """`nn.Dropout` with keyed masks inside `Draws.of` and torch's own masks outside."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply dropout to a tensor of any shape."""
        this = _pass.get()
        if this is None or not self.training or not self.p:
            return super().forward(input)
        return this.dropped(input, self.p)


class _Functions(TorchFunctionMode):
    """Keys the masks of dropout called as a function; slows every other call, so it is used briefly."""

    def __init__(self, this: _Pass) -> None:
        super().__init__()
        self.this, self.was_called = this, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace dropout and attention with dropout by keyed versions; other calls pass through."""
        options = kwargs or {}
        if func in (F.dropout, torch.dropout):
            states, probability, training = _of_dropout(*args, **options)
            if training and probability:
                self.was_called = True
                return self.this.dropped(states, probability)
        elif func is F.scaled_dot_product_attention and _dropout_of_attention(args, options):
            self.was_called = True
            return self.this.attention(*args, **options)
        return func(*args, **options)


def _of_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool = True
) -> tuple[Tensor, float, bool]:
    """Input, probability and mode of a call to `F.dropout` or `torch.dropout`."""
    return input, p, training and train


def _dropout_of_attention(args: Sequence[Any], options: dict[str, Any]) -> float:
    dropout: float = options.get("dropout_p", args[4] if len(args) > 4 else 0.0)
    return dropout


def keyed_attention(probability: float) -> AbstractContextManager[Any]:
    """Inside the block, `scaled_dot_product_attention` draws the masks of the current forward pass."""
    this = _pass.get()
    return nullcontext() if this is None or not probability else _Functions(this)


def _mixed(values: Keys) -> Keys:
    """The output function of splitmix64, modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _mixed_number(value: int) -> int:
    return int(_mixed(np.array([(value * _GOLDEN) & _ALL_BITS], np.uint64))[0])


def _positions(keys: Keys, size: int) -> Tensor:
    """(rows, size) int32: keys of the positions of each row."""
    steps = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _halves(_mixed(keys[:, None] + steps[None, :]))


def _halves(keys: Keys) -> Tensor:
    """The upper 32 bits as int32."""
    return torch.from_numpy((keys >> np.uint64(32)).astype(np.uint32).view(np.int32))
