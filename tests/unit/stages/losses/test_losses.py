"""Losses against independent float64 numpy formulas, and their independence of padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.losses import attention_score_loss, attention_scores, hard_label_loss, hidden_state_loss, soft_label_loss
from tests.unit.stages.losses.arrays import LENGTHS, A, B, C, D, H, S, drawn, softmax


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(S)[None, :] < torch.tensor(LENGTHS)[:, None]


def test_attention_loss_is_the_mean_squared_error_of_unpadded_scores(mask: Tensor) -> None:
    q_s, k_s, q_t, k_t = (drawn(B, A, S, D, seed=seed) for seed in range(4))
    loss = attention_score_loss(
        attention_scores(q_s, k_s, mask, scaling=0.5), attention_scores(q_t, k_t, mask, scaling=0.5), mask
    )
    total, count = 0.0, 0
    for b, length in enumerate(LENGTHS):
        for a in range(A):
            for i in range(length):
                for j in range(length):
                    student = 0.5 * float(np.dot(q_s[b, a, i].numpy(), k_s[b, a, j].numpy()))
                    teacher = 0.5 * float(np.dot(q_t[b, a, i].numpy(), k_t[b, a, j].numpy()))
                    total += (student - teacher) ** 2
                    count += 1
    assert loss.total.item() == pytest.approx(total, rel=1e-12)
    assert int(loss.count) == count


def test_centred_scores_are_scores_minus_the_mean_over_real_keys(mask: Tensor) -> None:
    q_s, k_s, q_t, k_t = (drawn(B, A, S, D, seed=seed) for seed in range(4))
    student = attention_scores(q_s, k_s, mask, scaling=0.5, centred=True)
    teacher = attention_scores(q_t, k_t, mask, scaling=0.5, centred=True)
    total, count = 0.0, 0
    for b, length in enumerate(LENGTHS):
        for a in range(A):
            for i in range(length):
                rows = []
                for queries, keys in ((q_s, k_s), (q_t, k_t)):
                    scores = [0.5 * float(queries[b, a, i].numpy() @ keys[b, a, j].numpy()) for j in range(length)]
                    rows.append([score - sum(scores) / length for score in scores])
                assert student[b, a, i, :length].tolist() == pytest.approx(rows[0], rel=1e-11, abs=1e-12)
                total += sum((left - right) ** 2 for left, right in zip(*rows, strict=True))
                count += length
    padding = ~(mask[:, None, :, None] & mask[:, None, None, :]).expand_as(student)
    assert not student[padding].any()
    for zero_at_padding in (False, True):
        loss = attention_score_loss(student, teacher, mask, zero_at_padding=zero_at_padding)
        assert loss.total.item() == pytest.approx(total, rel=1e-11)
        assert int(loss.count) == count


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("centred", [False, True])
def test_a_position_bias_is_added_to_the_scores_of_real_tokens(mask: Tensor, rows: int, centred: bool) -> None:
    query, key, bias = drawn(B, A, S, D, seed=1), drawn(B, A, S, D, seed=2), drawn(rows, A, S, S, seed=3)
    poisoned = bias
    if rows == B:  # padding may hold anything
        poisoned = bias.masked_fill(~(mask[:, None, :, None] & mask[:, None, None, :]), float("nan"))
    scores = attention_scores(query, key, mask, scaling=0.5, bias_BASS=poisoned, centred=centred)
    expected = np.zeros((B, A, S, S))
    for b, length in enumerate(LENGTHS):
        for a in range(A):
            for i in range(length):
                row = [
                    0.5 * float(query[b, a, i].numpy() @ key[b, a, j].numpy()) + float(bias[b % rows, a, i, j])
                    for j in range(length)
                ]
                mean = sum(row) / length if centred else 0.0
                expected[b, a, i, :length] = [score - mean for score in row]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-11, atol=1e-12)


def test_centred_scores_are_invariant_to_a_constant_added_to_a_querys_scores(mask: Tensor) -> None:
    query, key, moved_by = drawn(B, A, S, D, seed=1), drawn(B, A, S, D, seed=2), drawn(B, A, 1, D, seed=3)
    plain = attention_scores(query, key, mask, scaling=0.5, centred=True)
    torch.testing.assert_close(
        attention_scores(query, key + moved_by, mask, scaling=0.5, centred=True), plain, rtol=1e-11, atol=1e-12
    )
    softmaxes = [
        attention_scores(query, key, mask, scaling=0.5, centred=centred)[0].softmax(-1) for centred in (False, True)
    ]
    torch.testing.assert_close(*softmaxes, rtol=1e-11, atol=1e-12)  # the row without padding


def test_hidden_loss_is_the_mean_over_width_summed_over_tokens(mask: Tensor) -> None:
    student, teacher = drawn(B, S, H, seed=1), drawn(B, S, H, seed=2)
    loss = hidden_state_loss(student, teacher, mask)
    expected = sum(
        np.square(student[b, i].numpy() - teacher[b, i].numpy()).mean()
        for b, length in enumerate(LENGTHS)
        for i in range(length)
    )
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(loss.count) == sum(LENGTHS)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_label_loss_is_the_kl_divergence_times_squared_temperature(temperature: float) -> None:
    student, teacher = drawn(B, C, seed=1), drawn(B, C, seed=2)
    loss = soft_label_loss(student, teacher, temperature=temperature)
    p = softmax(teacher.numpy() / temperature)
    q = softmax(student.numpy() / temperature)
    assert loss.total.item() == pytest.approx(temperature**2 * float((p * np.log(p / q)).sum()), rel=1e-10)
    assert int(loss.count) == B


def test_soft_label_gradient_does_not_shrink_as_temperature_grows() -> None:
    norms = []
    for temperature in (1.0, 4.0, 16.0):
        student = (0.1 * drawn(64, C, seed=1)).requires_grad_()
        soft_label_loss(student, 0.1 * drawn(64, C, seed=2), temperature=temperature).total.backward()
        norms.append(float(student.grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert norms[2] == pytest.approx(norms[0], rel=0.05)


def test_soft_label_loss_is_zero_for_equal_logits() -> None:
    logits = drawn(B, C)
    assert float(soft_label_loss(logits, logits + 3.0, temperature=2.0).total) == pytest.approx(0.0, abs=1e-12)


def test_hard_label_loss_is_the_negative_log_likelihood() -> None:
    student, labels = drawn(B, C), torch.tensor([0, 2, 1])
    expected = -np.log(softmax(student.numpy())[np.arange(B), labels.numpy()]).sum()
    assert float(hard_label_loss(student, labels).total) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_values_at_padding_do_not_affect_loss_or_gradient(mask: Tensor, poison: float, centred: bool) -> None:
    def gradients(fill: float) -> tuple[list[float], list[Tensor]]:
        q = drawn(B, A, S, D, seed=1).masked_fill(~mask[:, None, :, None], fill).requires_grad_()
        k = drawn(B, A, S, D, seed=2).masked_fill(~mask[:, None, :, None], fill).requires_grad_()
        h = drawn(B, S, H, seed=3).masked_fill(~mask[:, :, None], fill).requires_grad_()
        scores = attention_scores(q, k, mask, scaling=0.5, centred=centred)
        attention = attention_score_loss(scores, scores.detach() * 0.5, mask)
        hidden = hidden_state_loss(h, drawn(B, S, H, seed=4), mask)
        (attention.total + hidden.total).backward()
        return [attention.total.item(), hidden.total.item()], [q.grad, k.grad, h.grad]

    clean_values, clean = gradients(0.0)
    values, poisoned = gradients(poison)
    assert values == clean_values
    for before, after in zip(clean, poisoned, strict=True):
        assert torch.equal(before, after)


def test_more_padding_does_not_change_the_loss() -> None:
    lengths = torch.tensor(LENGTHS)
    results = []
    for width in (5, 9):
        mask = torch.arange(width)[None, :] < lengths[:, None]
        q = torch.zeros(B, A, width, D, dtype=torch.float64)
        q[:, :, :5] = drawn(B, A, 5, D, seed=1)
        h = torch.zeros(B, width, H, dtype=torch.float64)
        h[:, :5] = drawn(B, 5, H, seed=2)
        scores = attention_scores(q, q, mask, scaling=0.5)
        results.append((attention_score_loss(scores, 2 * scores, mask), hidden_state_loss(h, 2 * h, mask)))
    for short, long in zip(*results, strict=True):
        assert float(short.total) == pytest.approx(float(long.total), rel=1e-12)
        assert int(short.count) == int(long.count)


def test_gradients_equal_finite_differences(mask: Tensor) -> None:
    q = drawn(B, A, S, D, seed=1).requires_grad_()
    k = drawn(B, A, S, D, seed=2).requires_grad_()
    target = drawn(B, A, S, S, seed=3)
    torch.autograd.gradcheck(
        lambda q, k: attention_score_loss(attention_scores(q, k, mask, scaling=0.5), target, mask).total, (q, k)
    )
    h = drawn(B, S, H, seed=4).requires_grad_()
    torch.autograd.gradcheck(lambda h: hidden_state_loss(h, drawn(B, S, H, seed=5), mask).total, (h,))
    logits = drawn(B, C, seed=6).requires_grad_()
    torch.autograd.gradcheck(lambda x: soft_label_loss(x, drawn(B, C, seed=7), temperature=3.0).total, (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_for_extreme_inputs(dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 0, 0], [0, 0, 0]]).bool()  # a one-token row and an all-padding row
    q = torch.full((2, A, 3, D), 70.0, dtype=dtype, requires_grad=True)
    loss = attention_score_loss(attention_scores(q, q, mask, scaling=0.5), torch.zeros(2, A, 3, 3), mask)
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    soft = soft_label_loss(logits, torch.tensor([[-1e4, 1e4, 0.0]]), temperature=1.0)
    (loss.total + soft.total).backward()
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(logits.grad).all()
    assert loss.total.dtype == torch.float32


def test_attention_scores_are_in_full_precision_under_bf16_autocast(mask: Tensor) -> None:
    q = drawn(B, A, S, D).float()
    plain = attention_scores(q, q, mask, scaling=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention_scores(q, q, mask, scaling=0.5), plain)
