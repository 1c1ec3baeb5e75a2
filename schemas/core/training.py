"""How long, in what batches and with which optimizer a stage trains. Every quantity carries its unit."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from schemas.core.base import Frozen
from schemas.core.metrics import MetricName

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6}
_AMOUNT = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*([kKmM]?)\s*([a-z]+)\s*$")


def parse_amount(value: Any) -> Any:
    """Split `"3 epochs"`, `"500 steps"`, `"2.5M tokens"` or `"32 sequences"` into amount and unit."""
    if isinstance(value, str) and (match := _AMOUNT.match(value)):
        amount = float(match[1]) * _SUFFIX[match[2].lower()]
        unit = match[3] if match[3].endswith("s") else match[3] + "s"
        return {"amount": amount, "unit": unit}
    if isinstance(value, str):
        raise ValueError('expected an amount and a unit, such as "3 epochs", "500 steps" or "2.5M tokens"')
    return value


class Amount(Frozen):
    """A number of some unit, also written as one text: `3 epochs`."""

    amount: float
    unit: str
    largest: ClassVar[dict[str, float]]
    """By unit: no run could finish with more."""

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return parse_amount(value)

    @model_validator(mode="after")
    def _is_feasible(self) -> Self:
        if self.amount > self.largest[self.unit]:
            raise ValueError(
                f"{self.amount:,.15g} {self.unit} are more than any run can take; give at most "
                f"{self.largest[self.unit]:,.15g} {self.unit}"
            )
        return self

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


class Duration(Amount):
    """How long a stage trains."""

    amount: float = Field(gt=0)
    """How many of the unit."""
    unit: Literal["steps", "epochs", "tokens"]
    """Optimizer steps, passes over the data, or real (non-padding) tokens."""
    largest: ClassVar[dict[str, float]] = {"steps": 1e9, "epochs": 1e6, "tokens": 1e14}


class BatchSize(Amount):
    """Size of an optimizer step."""

    amount: float = Field(ge=1)
    """How many of the unit."""
    unit: Literal["sequences", "tokens"]
    """Sequences, or real (non-padding) tokens, per optimizer step."""
    largest: ClassVar[dict[str, float]] = {"sequences": 1e6, "tokens": 1e9}


class AdamW(Frozen):
    """AdamW (Loshchilov & Hutter 2019, Algorithm 2); biases and normalisation weights are not decayed."""

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the two moment estimates."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Decoupled weight decay of matrices."""


class Schedule(Frozen):
    """Learning rate over the stage: linear warm-up, then constant or linear decay to zero."""

    kind: Literal["linear", "constant"] = "linear"
    """What follows the warm-up."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps that the learning rate takes to rise from zero."""


class Selection(Frozen):
    """Keep the weights with the best score on rows that are not learnt from, and stop when nothing is gained any more.

    Scores are measured in fp32, whatever number format a stage trains in, because the score that a stage ends with is:
    the weights are chosen by the very number that is reported of them.
    """

    every: Duration = Duration(amount=0.5, unit="epochs")
    """How much is learnt between two measurements: `0.5 epochs`, `100 steps`; the stage's end is always measured."""
    patience: int | None = Field(default=3, ge=1)
    """Measurements in a row without gain that end the stage; null trains to the end and keeps the best weights."""
    metric: MetricName | None = None
    """The score; null for the task's main one, of several tasks the mean of each one's main score."""
    rows: Literal["validation", "held_out"] = "validation"
    """Rows that are scored. Those of validation were then chosen by, so that their score in the report is the best of
    several, a little too good; `held_out` takes rows away from training instead, and leaves that score honest."""
    held_out_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the training rows that `held_out` takes, but at least 50 and at most max_rows."""
    max_rows: int = Field(default=1000, ge=50)
    """Rows that are scored at most, drawn by class, the same ones every time."""


class Training(Frozen):
    """One stage's training run."""

    duration: Duration
    """How long: `3 epochs`, `500 steps` or `2.5M tokens`."""
    batch: BatchSize = BatchSize(amount=32, unit="sequences")
    """One optimizer step: `32 sequences` or `4096 tokens`."""
    optimizer: AdamW = AdamW()
    """AdamW's settings."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule."""
    gradient_clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm (student and projections together); null switches clipping off."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """The student's dropout in this stage; null keeps what its model config says."""
    gradient_perturbation: float | None = Field(default=None, gt=0, le=100)
    """Length of a step along the gradient at each row's word embeddings, taken before a second forward pass whose loss
    is the one that counts (LRC-BERT); doubles the cost. Null for none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast, full fp32, or bf16 where the hardware has instructions for it."""
    selection: Selection | None = None
    """Which weights are kept of a stage whose answers can be scored; null keeps the last."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds data order, dropout and whatever is started at random."""
