"""Published relation and attention losses: value and gradient of every case of the fixtures.

NVIDIA's code (`dle`) masks nothing itself, PaddleNLP's (`paddle`) masks padded keys alone and divides by the first
dimension, milistu/bertdistiller averages within each sequence first.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.losses import relation_loss
from tests.parity.published import (
    bertdistiller_relation_mean,
    check_value_and_gradient,
    paddle_relation_sum,
    published_probability_loss,
    published_score_loss,
    published_state_loss,
)


def nvidia(name: str, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    if name.startswith("dle_attention_kld"):
        return published_probability_loss(student, teacher, kind="kl").mean()
    if name == "dle_attention_mse":
        return published_score_loss(student, teacher).mean()
    if name == "dle_hidden_mse":
        return published_state_loss(student, teacher).mean()
    if name == "dle_hidden_cosine":
        return published_state_loss(student, teacher, kind="cosine").mean()
    assert name == "dle_value_relation_kld"
    # NVIDIA's code has no mask here: every position is real.
    return relation_loss(student, teacher, torch.ones_like(mask), num_heads=None).mean()


def paddle(name: str, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    def summed(across: str) -> Tensor:
        return paddle_relation_sum(student, teacher, mask, num_heads=num_heads, across=across)

    num_heads = int(re.findall(r"heads(\d+)", name)[0])
    if name.startswith("paddle_minilm"):
        return summed("tokens")
    heads, samples = (float(weight) for weight in re.findall(r"_[ab]([\d.]+)", name)[:2])
    batch, sequence = mask.shape
    # Its `batchmean` divides by the first dimension, which is the sequence's across samples.
    return (
        (1 - heads - samples) * summed("tokens") / batch
        + heads * summed("heads") / batch
        + samples * summed("samples") / sequence
    )


def bertdistiller(name: str, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    num_heads = int(re.findall(r"heads(\d+)", name)[0])
    return bertdistiller_relation_mean(student, teacher, mask, num_heads=num_heads)


SOURCES = {"dle": nvidia, "paddle": paddle, "bertdistiller": bertdistiller}
NAMES = [
    *(f"dle_attention_{loss}" for loss in ("kld", "kld_nopad", "mse")),
    *(f"dle_{loss}" for loss in ("value_relation_kld", "hidden_mse", "hidden_cosine")),
    *(f"paddle_minilm_{x}{x}_heads{n}_sum" for x in "qkv" for n in (2, 4, 8)),
    *(
        f"paddle_multi_relation_kk_heads2_a{heads}_b{samples}_batchmean"
        for heads, samples in (("0", "0"), ("0.3", "0"), ("0", "0.3"), ("0.2", "0.3"))
    ),
    *(f"bertdistiller_{x}{x}_heads{n}" for x in "qkv" for n in (2, 4, 8)),
]


def read_cases(shared: Path) -> dict[str, dict[str, Any]]:
    text = (shared / "fixtures" / "minilm_losses.json").read_text(encoding="utf-8")
    return {case["name"]: case for case in json.loads(text)["losses"]}


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_equal_the_published_ones(name: str, shared: Path) -> None:
    case = read_cases(shared)[name]
    arrays = np.load(shared / "fixtures" / "minilm_losses.npz", allow_pickle=False)
    student = torch.from_numpy(arrays[case["student"]]).double().requires_grad_()
    teacher = torch.from_numpy(arrays[case["teacher"]]).double()
    compute = SOURCES[name.partition("_")[0]]
    value = compute(name, student, teacher, torch.from_numpy(arrays["mask"]))
    check_value_and_gradient(value, student, case)


def test_every_published_case_is_compared(shared: Path) -> None:
    assert sorted(read_cases(shared)) == sorted(NAMES)
    assert len(NAMES) == 28
