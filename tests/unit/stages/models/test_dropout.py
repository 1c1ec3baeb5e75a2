"""Dropout draws the same mask for a row in every split of a step, with any padding and architecture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from stages.data.batching.payloads import Payload, Targets
from stages.data.batching.tokens import Batch, Tokens
from stages.models.attention_capture import CAPTURE
from stages.models.dropout import Draws
from stages.models.encoders import attention_of
from stages.models.student import dropout
from tests.support.families import FAMILIES, family_config

LENGTHS = (9, 4, 7, 5, 11)
ALL = [0, 1, 2, 3, 4]


def some_tokens() -> Tokens:
    lengths = np.array(LENGTHS, np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, 60, lengths.sum()).astype(np.int32)
    return Tokens(ids, lengths, None, Payload(), 0, "digest", starts)


def padded(batch: Batch, width: int) -> Batch:
    """Return the batch with extra columns of padding."""
    more = torch.zeros(len(batch.input_ids), width - batch.input_ids.shape[1], dtype=torch.long)
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, more], 1),
        attention_mask=torch.cat([batch.attention_mask, more], 1),
    )


class Student:
    """A model in training mode that runs on some rows of the text."""

    def __init__(self, model: nn.Module, *, probability: float = 0.3) -> None:
        self.model, self.tokens = model.train(), some_tokens()
        self.probability = probability
        self.draws = Draws(model, seed=3)
        with dropout(model, probability):
            self.draws.inspect(self.run, self.tokens, torch.device("cpu"))

    def run(self, batch: Batch) -> Tensor:
        """Return the last states, (batch, sequence, width)."""
        answer = self.model(**batch.model_inputs())
        states: Tensor = getattr(answer, "last_hidden_state", answer)
        return states

    def states(self, rows: list[int], *, step: int = 0, width: int = 0) -> dict[int, Tensor]:
        """Return the last states of each row's real tokens after one forward pass, by row number."""
        batch = self.tokens.batch(np.array(rows))
        if width:
            batch = padded(batch, width)
        with dropout(self.model, self.probability), self.draws.of(step, batch):
            states = self.run(batch)
        return {row: row_states[: LENGTHS[row]] for row, row_states in zip(rows, states, strict=True)}


def of_family(family: str) -> Student:
    torch.manual_seed(0)
    config = family_config(family)
    return Student(AutoModel.from_config(config, **attention_of(config)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rows_dropout_does_not_depend_on_other_rows_or_padding(family: str) -> None:
    student = of_family(family)
    assert not student.draws.unkeyed
    # A convolution reads the padding next to a row, with any draw.
    widths = (17, 17, 17, 17) if family == "convbert" else (0, 0, 17, 0)
    together = student.states(ALL, width=widths[0])
    apart: dict[int, Tensor] = {}
    for rows, width in zip(([4, 1], [0], [2], [3]), widths, strict=True):
        apart |= student.states(rows, width=width)
    for row, states in together.items():
        torch.testing.assert_close(apart[row], states, rtol=1e-4, atol=1e-5)
    other_zeros = student.states(ALL, step=1, width=widths[0])
    assert not torch.allclose(other_zeros[0], together[0], atol=1e-2)


class OwnCalls(nn.Module):
    """Calls dropout as a function, in a sequence-first layout and on a table shared by all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 8)
        self.places = nn.Parameter(torch.randn(1, 32, 8))
        self.dropout_prob = 0.3

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map (batch, sequence) to (batch, sequence, 8)."""
        places = F.dropout(self.places[:, : input_ids.shape[1]], self.dropout_prob, self.training)
        states = torch.dropout((self.table(input_ids) + places).transpose(0, 1), self.dropout_prob, self.training)
        heads = states.permute(1, 0, 2).unflatten(-1, (2, 4)).transpose(1, 2)
        answer = F.scaled_dot_product_attention(
            heads, heads, heads, attention_mask.bool()[:, None, None], self.dropout_prob
        )
        layer: Tensor = F.dropout(answer.transpose(1, 2).flatten(2), p=self.dropout_prob)
        return layer


def test_functional_dropout_is_keyed() -> None:
    torch.manual_seed(0)
    student = Student(OwnCalls())
    assert student.draws.calls_functions
    assert student.draws.row_axes == {0: None, 1: 1, 2: 0, 3: 0}
    together = student.states(ALL)
    for row in ALL:
        torch.testing.assert_close(student.states([row])[row], together[row], rtol=1e-5, atol=1e-6)


def test_attention_with_dropout_has_the_mean_of_attention_without() -> None:
    torch.manual_seed(0)
    config = family_config("bert", layers=1)
    model = AutoModel.from_config(config, attn_implementation=CAPTURE).train()
    attention = model.encoder.layer[0].attention.self
    states = torch.randn(1, 4, 16).expand(2000, -1, -1)
    batch = Batch(torch.zeros(2000, 4, dtype=torch.long), torch.ones(2000, 4), None, Targets(), 8000)
    with torch.no_grad(), dropout(model, 0.0):
        exact = attention(states[:1])[0]
    with torch.no_grad(), dropout(model, 0.4), Draws(model, seed=1).of(0, batch):
        drawn = attention(states)[0]
    assert float((drawn - exact).abs().mean()) > 0.1
    torch.testing.assert_close(drawn.mean(0, keepdim=True), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("shape", [(400, 50), (20, 40, 50), (10, 4, 20, 50)])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_has_the_configured_rate_and_is_independent(shape: tuple[int, ...], probability: float) -> None:
    module = nn.Dropout(probability)
    draws = Draws(module, seed=0)
    batch = Batch(torch.zeros(shape[0], 3, dtype=torch.long), torch.ones(shape[0], 3), None, Targets(), 0)

    def drawn(step: int) -> tuple[Tensor, Tensor]:
        with draws.of(step, batch):
            return module(torch.ones(shape)), module(torch.ones(shape))

    first, second = drawn(0)
    reseeded, _ = drawn(1)
    dropped = [mask == 0 for mask in (first, second, reseeded)]
    expected = 1 / (1 - probability)
    torch.testing.assert_close(first[~dropped[0]], torch.full_like(first[~dropped[0]], expected))
    number = first.numel()
    spread = 5 * (probability * (1 - probability) / number) ** 0.5
    for zeros in dropped:
        assert abs(float(zeros.float().mean()) - probability) < spread
    pairs = [(dropped[0], dropped[1]), (dropped[0], dropped[2])]
    pairs += [(dropped[0], dropped[0].roll(1, axis)) for axis in range(len(shape))]  # neighbours along every axis
    both = probability**2
    for left, right in pairs:
        both_dropped = float((left & right).float().mean())
        assert abs(both_dropped - both) < 5 * (both * (1 - both) / number) ** 0.5


def test_dropout_repeats_for_the_same_pass_and_differs_between_seeds() -> None:
    module = nn.Dropout(0.5)
    batch = Batch(torch.zeros(3, 3, dtype=torch.long), torch.ones(3, 3), None, Targets(), 9)

    def drawn(seed: int) -> Tensor:
        with Draws(module, seed).of(7, batch):
            states: Tensor = module(torch.ones(3, 3, 64))
        return states

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_dropout_outside_a_stage_is_that_of_torch() -> None:
    module = nn.Dropout(0.5)
    Draws(module, seed=0)
    torch.manual_seed(5)
    dropped = module(torch.ones(8))
    torch.manual_seed(5)
    assert torch.equal(dropped, F.dropout(torch.ones(8), 0.5))
