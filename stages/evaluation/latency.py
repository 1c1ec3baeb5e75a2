"""Speed of the student relative to its teacher, on the same inputs, in turn, on this machine."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from stages.models.encoders import shape_of

SEQUENCES, LENGTH = 4, 128
"""Sequences of a forward pass, and their tokens. Few: a run should not end with seconds of waiting for a ratio."""


class SpeedUp(NamedTuple):
    """Teacher's time over the student's."""

    median: float
    low: float
    high: float


@torch.no_grad()
def speed_up(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    *,
    batch: int = SEQUENCES,
    sequence_length: int = LENGTH,
    rounds: int = 5,
) -> SpeedUp:
    """Ratio of forward times, round by round, fp32, without padding.

    Args:
        student: the smaller model.
        teacher: the larger model.
        batch: sequences per forward pass.
        sequence_length: tokens per sequence, fewer where a model cannot read so many.
        rounds: how often the two are timed in turn, after one round that is not counted.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(student.config.vocab_size, teacher.config.vocab_size)
    longest = min(sequence_length, shape_of(student.config).max_positions, shape_of(teacher.config).max_positions)
    input_ids = torch.randint(vocabulary, (batch, longest), generator=generator)

    def seconds(model: PreTrainedModel) -> float:
        inputs = input_ids.to(model.device)
        began = time.perf_counter()
        model(input_ids=inputs)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    student.eval(), teacher.eval()
    ratios = [seconds(teacher) / seconds(student) for _ in range(rounds + 1)][1:]
    return SpeedUp(statistics.median(ratios), min(ratios), max(ratios))
