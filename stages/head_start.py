"""A student's head before training, taken from its teacher's (SimKD, Chen et al. 2022, arXiv 2203.14001).

SimKD keeps the teacher's classifier and trains a projector in front of it. Here the projector is linear and folded into
the head, so that the student stays an ordinary model of its family:

- A head of the same make and width is copied, tensor for tensor: the map between the states is the identity. The
  setting `fitted` fits these heads too.
- Otherwise each linear layer of the student's head is a least-squares fit on training text. A layer W, b of the teacher
  over the least-squares map A x + a of a student's state x is itself the least-squares fit of W h + b on x, for h the
  teacher's state, so that A is never formed. A narrower hidden layer (a pooler) takes the teacher's first units: which
  ones made no difference in a trial. The last layer is fitted to the teacher's answers, from what the layers below it
  yield.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from schemas.core.errors import ConfigError
from stages.data.batching.tokens import Batch, Tokens
from stages.models.read import drawn_text, evaluated, head_answer, reading_batches
from stages.models.sentence_encoder import Model, SentenceEncoder
from stages.models.starts.least_squares import LeastSquares
from stages.training.value_scale import standardised

_Call = tuple[nn.Linear, Tensor, Tensor]
"""A layer, its input and its output."""
Answered = Callable[[Batch], Tensor]
"""Returns (batch, seq), True for tokens that a head with an answer per token answers about."""


@torch.no_grad()
def start_head(
    student: Model, teacher: Model, text: Tokens, answered: Answered, *, seed: int, copies: bool = True
) -> None:
    """Give a student's new head the values of its teacher's, in place.

    Args:
        student: with a new head; its encoder is trained as far as the stages before this one went.
        teacher: with a trained head, whose outputs are in the order of the student's.
        text: training text; `drawn_text` says how much of it is read.
        answered: tokens that count where the head answers about every token.
        seed: draws the text.
        copies: copy a head of the same make and width; False fits it too.

    Raises:
        ConfigError: the student's head has no linear layer.
    """
    tensors, values = _head_tensors(student), _head_tensors(teacher)
    if not tensors and not values:
        return  # vectors that are the encoders' states
    if copies and _is_same_head(student, teacher):
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
        return
    rows = drawn_text(text, seed)
    with evaluated(student, teacher):
        layers, sources = (_layers(model, text.batch(rows[:1])) for model in (student, teacher))
        if not layers:
            raise ConfigError(
                f"objective.head: the head of the student, {type(student).__name__}, has no linear layer that could be "
                "fitted to the teacher's answers; set it to fresh"
            )
        _fit(student, layers, teacher, sources, text, rows, answered)


def _head_tensors(model: Model) -> dict[str, Tensor]:
    """Weights between an encoder and its answers, by name; a pooler is one of them, wherever the family keeps it."""
    state: dict[str, Tensor] = model.state_dict()
    if isinstance(model, SentenceEncoder):
        return {name: tensor for name, tensor in state.items() if name.startswith("dense.")}
    base = f"{model.base_model_prefix}."
    return {
        name: tensor for name, tensor in state.items() if not name.startswith(base) or name.startswith(f"{base}pooler.")
    }


def _is_same_head(student: Model, teacher: Model) -> bool:
    shapes = [{name: tensor.shape for name, tensor in _head_tensors(model).items()} for model in (student, teacher)]
    makes = [(type(model), model.config.hidden_size, _head_settings(model)) for model in (student, teacher)]
    return shapes[0] == shapes[1] and makes[0] == makes[1]


def _head_settings(model: Model) -> dict[str, Any]:
    """Settings of a config that change what a head computes from the same weights."""
    return {
        name: value
        for name, value in model.config.to_dict().items()
        if name.startswith(("classifier_", "pooler_", "summary_", "hidden_act")) and "dropout" not in name
    }


@contextmanager
def _noted(layers: Sequence[nn.Linear]) -> Iterator[list[_Call]]:
    """Collect (layer, input, output) of each run of some layers; outputs in the layer's own units."""
    calls: list[_Call] = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, output: calls.append((layer, inputs[0], output)), prepend=True
        )
        for layer in layers
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: Model, sample: Batch) -> list[nn.Linear]:
    """Linear layers of a model's head in the order in which they run.

    Some families run a pooler of the first token below a head that answers about every token and never reads it.
    """
    tensors = _head_tensors(model)
    layers = [
        layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and f"{name}.weight" in tensors
    ]
    with _noted(layers) as calls:
        model(**sample.to(model.device).model_inputs())
    return [layer for layer, inputs, _ in calls if inputs.ndim == calls[-1][1].ndim]


def _fit(
    student: Model,
    layers: list[nn.Linear],
    teacher: Model,
    sources: list[nn.Linear],
    text: Tokens,
    rows: NDArray[np.int64],
    answered: Answered,
) -> None:
    """Fit the layers of a student's head in order; the teacher reads the text once.

    A hidden layer without a counterpart in the teacher's head, and its units beyond the teacher's, stay as drawn.
    """
    first, last = layers[0], layers[-1]
    hidden = LeastSquares(has_intercept=first.bias is not None) if len(layers) == len(sources) == 2 else None
    answers: list[Tensor] = []
    for _, batch in reading_batches(text, rows):
        batch = batch.to(student.device)
        with _noted(sources) as taught:
            answer = head_answer(teacher(**batch.model_inputs()))
        assert answer is not None
        answers.append(answer)
        if hidden is not None:
            units = _find(sources[0], taught)[1][..., : first.out_features]
            hidden.add(*_aligned(_read(student, first, batch), units, answered(batch)))
    if hidden is not None:
        _set(first, *hidden.solved())
    fit = LeastSquares(has_intercept=last.bias is not None)
    for (_, batch), answer in zip(reading_batches(text, rows), answers, strict=True):
        batch = batch.to(student.device)
        fit.add(*_aligned(_read(student, last, batch), standardised(last, answer), answered(batch)))
    _set(last, *fit.solved())


def _find(layer: nn.Linear, calls: list[_Call]) -> tuple[Tensor, Tensor]:
    return next((inputs, output) for noted, inputs, output in calls if noted is layer)


def _read(model: Model, layer: nn.Linear, batch: Batch) -> Tensor:
    """Inputs of a layer for a batch."""
    with _noted([layer]) as calls:
        model(**batch.model_inputs())
    return _find(layer, calls)[0]


def _flat(values: Tensor, mask: Tensor) -> Tensor:
    """(rows, width) of rows, or of the tokens that count."""
    return values[mask] if values.ndim == 3 else values


def _aligned(inputs: Tensor, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of one form: an output per row serves all its tokens, outputs per token are averaged."""
    if inputs.ndim > outputs.ndim:
        outputs = outputs.unsqueeze(1).expand(*inputs.shape[:2], -1)
    elif inputs.ndim < outputs.ndim:
        weights = mask.unsqueeze(-1).to(outputs.dtype)
        outputs = (outputs * weights).sum(1) / weights.sum(1)
    return _flat(inputs, mask), _flat(outputs, mask)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set the first units of a layer."""
    layer.weight[: len(weight)] = weight.to(layer.weight)
    if layer.bias is not None:
        layer.bias[: len(bias)] = bias.to(layer.bias)
