"""Settings of a stage's training: duration, batches, optimizer, selection. Every quantity has its unit."""

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
    """Length of a stage's training."""

    amount: float = Field(gt=0)
    """Number of units."""
    unit: Literal["steps", "epochs", "tokens"]
    """Optimizer steps, passes over the data, or real (non-padding) tokens."""
    largest: ClassVar[dict[str, float]] = {"steps": 1e9, "epochs": 1e6, "tokens": 1e14}


class BatchSize(Amount):
    """Size of an optimizer step."""

    amount: float = Field(ge=1)
    """Number of units."""
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
    """Course after the warm-up."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from zero."""


class Selection(Frozen):
    """Keep the weights with the best score on rows outside training, and stop once the score no longer improves.

    Scores are measured in fp32 even if a stage trains in bf16, as are the scores of a report: weights are chosen by the
    same number that is reported.
    """

    every: Duration = Duration(amount=0.5, unit="epochs")
    """Interval between two measurements: `0.5 epochs`, `100 steps`; the end of the stage is always measured."""
    patience: int | None = Field(default=3, ge=1)
    """Consecutive measurements without gain that end the stage; null trains to the end and keeps the best weights."""
    metric: MetricName | None = None
    """The score; null for the main score of the task, or for the mean over several tasks."""
    rows: Literal["validation", "held_out"] = "held_out"
    """Rows that are scored. `held_out` takes rows out of training, so that the reported score stays unbiased; on
    `validation` the reported score is the best of several, and so slightly too good."""
    held_out_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the training rows that `held_out` takes, at least 50 rows and at most max_rows."""
    max_rows: int = Field(default=1000, ge=50)
    """Most rows that are scored, drawn by class once."""


class HeadFirst(Frozen):
    """Train the head alone on the frozen body's features first, then both (LP-FT, Kumar et al. 2022, 2202.10054).

    A fresh head's first gradients distort pretrained features before it has learnt to read them. The head is all that
    reads the last hidden states: the output layers and the pooler, which many encoders do not bring along. A step of
    the head alone costs a third of a whole step, because nothing flows back through the body.
    """

    share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the stage's steps, the first ones, in which the body is frozen; rounded down to whole steps."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Learning rate of the first step of the head alone; falls linearly to 0 at the step at which the body joins, where
    `schedule` begins with its warm-up."""


class Training(Frozen):
    """Training of one stage."""

    duration: Duration
    """Length of the training: `3 epochs`, `500 steps` or `2.5M tokens`."""
    batch: BatchSize = BatchSize(amount=32, unit="sequences")
    """Size of an optimizer step: `32 sequences` or `4096 tokens`."""
    optimizer: AdamW = AdamW()
    """AdamW's settings."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule."""
    head_first: HeadFirst | None = None
    """Steps of the head alone before the body joins, for stages that train a task's head; null for none."""
    gradient_clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm (student and projections together, without frozen weights); null disables
    clipping."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """The student's dropout in this stage; null for the dropout of its model config."""
    gradient_perturbation: float | None = Field(default=None, gt=0, le=100)
    """Length of a step along the gradient at each row's word embeddings, before a second forward pass whose loss is
    trained on (LRC-BERT); doubles the cost. Null for none."""
    frozen: Literal["none", "word_embeddings"] = "none"
    """`word_embeddings` keeps the student's word table as the stage begins with it: it has no gradient, no moments and
    no weight decay. A masked-language head whose decoder is the table keeps that too and learns its other weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast, full fp32, or bf16 if the hardware has instructions for it."""
    teacher_precision: Literal["same", "int8"] = "same"
    """Number format of the teachers' linear layers: that of `precision`, or 8-bit integers on a CPU, which is faster
    and less exact (docs/methods.md)."""
    simulated_precision: Literal["none", "int8"] = "none"
    """`int8` trains the student with the rounding of 8-bit integers, so that `distill export --int8` changes fewer of
    its answers (docs/methods.md)."""
    selection: Selection | None = None
    """Selection of the best weights, for stages whose answers can be scored; null keeps the last weights."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds data order, dropout and random initialisation. Stages with the same seed differ in the order of their rows
    and in their dropout masks; their new heads and projections begin alike."""

    @model_validator(mode="after")
    def _perturbs_what_learns(self) -> Self:
        if self.head_first is not None and self.gradient_perturbation is not None:
            raise ValueError(
                "head_first freezes the body, and gradient_perturbation moves the word embeddings in it; leave one out"
            )
        return self
