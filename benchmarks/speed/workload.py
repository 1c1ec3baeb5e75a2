"""Shapes, objectives and rows of the speed benchmark."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn
from transformers import BertConfig

from schemas.core.training import BatchSize
from schemas.recipe.objective import LatentObjective, TaskObjective
from stages.data.batching.payloads import RowLabels
from stages.data.batching.tokens import Tokens
from stages.device.runtime import Runtime

Objective = Literal["latent", "labels", "relations"]
Shape = Literal["base", "small"]

BATCH_ROWS = 32
MAX_LENGTH = 128
VOCABULARY = 30_522
NUM_ROWS = 8192

# (blocks, width, heads, inner size) of teacher and student.
SHAPES: dict[Shape, tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "base": ((12, 768, 12, 3072), (4, 312, 12, 1200)),
    "small": ((6, 384, 12, 1536), (3, 312, 12, 1200)),
}
OBJECTIVES: dict[Objective, Any] = {
    "latent": LatentObjective(),
    "labels": TaskObjective(latent=None),
    "relations": LatentObjective.model_validate(
        {
            "layer_map": {"kind": "last"},
            "terms": [
                {"kind": "relation", "between": between, "num_heads": 12} for between in ("query", "key", "value")
            ],
        }
    ),
}


@dataclass(frozen=True)
class Workload:
    """Configs, rows and device of one shape."""

    teacher: BertConfig
    student: BertConfig
    tokens: Tokens
    rows_per_batch: int
    """Rows in a batch of the yardstick."""
    batch: BatchSize
    """Number of real tokens of about as many rows."""
    device: torch.device

    @property
    def mapped(self) -> tuple[int, ...]:
        """Teacher blocks of the uniform map, counted from 0."""
        ratio = self.teacher.num_hidden_layers // self.student.num_hidden_layers
        return tuple(ratio * (layer + 1) - 1 for layer in range(self.student.num_hidden_layers))

    @property
    def mean_length(self) -> float:
        """Mean number of real tokens of a row."""
        return float(self.tokens.lengths.mean())


def make_workload(shape: Shape, device: torch.device, *, rows_per_batch: int = BATCH_ROWS) -> Workload:
    """Return the configs of a shape and seeded rows."""
    teacher, student = (_config(*size) for size in SHAPES[shape])
    tokens = make_tokens()
    return Workload(
        teacher,
        student,
        tokens,
        rows_per_batch,
        TypeAdapter(BatchSize).validate_python(f"{round(rows_per_batch * tokens.lengths.mean())} tokens"),
        device,
    )


def _config(layers: int, width: int, heads: int, inner: int) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
    )


def make_tokens(seed: int = 0) -> Tokens:
    """Return rows of log-normal length (median 25, sigma 0.7, cut at 128), uniform words, two classes."""
    random = np.random.default_rng(seed)
    drawn = np.exp(np.log(25) + 0.7 * random.standard_normal(NUM_ROWS))
    lengths = np.clip(np.round(drawn), 3, MAX_LENGTH).astype(np.int32)
    ids = random.integers(1000, VOCABULARY, lengths.sum()).astype(np.int32)
    return Tokens(
        ids=ids,
        lengths=lengths,
        types=None,
        payload=RowLabels(random.integers(0, 2, NUM_ROWS)),
        pad_token_id=0,
        digest=f"lognormal-{seed}",
        starts=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]).astype(np.int64),
    )


def linear_shapes(config: BertConfig) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of every matrix of one block."""
    width, inner = config.hidden_size, config.intermediate_size
    return [(width, width)] * 4 + [(width, inner), (inner, width)]


def linear_flops(config: BertConfig) -> int:
    """Return operations per token of all blocks' matrices, forward, two per multiply-add."""
    block = sum(2 * inputs * outputs for inputs, outputs in linear_shapes(config))
    return block * int(config.num_hidden_layers)


def attention_flops(config: BertConfig, length: float) -> float:
    """Return operations per token of both attention products, forward, at a row's length."""
    return float(4 * length * config.hidden_size * config.num_hidden_layers)


class MatrixRates:
    """Measurement of the rate of a config's matrix products."""

    def __init__(self, device: torch.device, num_tokens: int) -> None:
        self.device, self.num_tokens = device, num_tokens

    @torch.no_grad()
    def measure(self, config: BertConfig, dtype: torch.dtype, *, seconds: float = 0.3) -> float:
        """Return operations per second over the products of one block, computed as this project computes them."""
        runtime = Runtime("fp32")
        pairs = [
            (
                torch.randn(self.num_tokens, inputs, device=self.device).to(dtype),
                runtime.quick(nn.Linear(inputs, outputs, bias=False, device=self.device, dtype=dtype)),
            )
            for inputs, outputs in linear_shapes(config)
        ]
        clock = Clock(self.device)
        for states, linear in pairs:
            linear(states)
        rounds, clock_start = 0, clock.now()
        while (elapsed := clock.now() - clock_start) < seconds:
            for states, linear in pairs:
                linear(states)
            rounds += 1
        flops = sum(2 * inputs * outputs for inputs, outputs in linear_shapes(config))
        return rounds * flops * self.num_tokens / elapsed


class Clock:
    """Clock that waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Return seconds since an arbitrary moment, after all device work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
