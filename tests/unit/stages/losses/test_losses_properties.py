"""Properties of every loss: padding, splits, precision, extreme inputs, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import stages.losses
from stages.losses import (
    Summed,
    angular_contrastive_loss,
    attention_probability_loss,
    attention_score_loss,
    attention_scores,
    choice_loss,
    hard_label_loss,
    hidden_state_loss,
    layer_angle_loss,
    layer_pair_loss,
    multi_label_loss,
    pool_states,
    relation_loss,
    sample_angle_loss,
    soft_choice_loss,
    soft_label_loss,
    soft_multi_label_loss,
    soft_span_loss,
    span_loss,
    token_angle_loss,
    token_pair_loss,
    value_loss,
    vector_loss,
    word_angle_loss,
    word_pair_loss,
)

SIZES = {"A": 2, "D": 4, "H": 8, "L": 4, "C": 5, "E": 2}
ROW_WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64)
LABELS = torch.tensor([0, 4, 2, 3])
LABEL_SETS = torch.eye(5, dtype=torch.float64)[:4] + torch.eye(5, dtype=torch.float64)[[1, 2, 3, 4]]
# Full, short, one token, and nothing but padding.
LENGTHS = (5, 3, 1, 0)


@dataclass(frozen=True)
class Rows:
    """Rows of a batch as seen by a loss, and the teacher of the whole batch."""

    student: Tensor
    teacher: Tensor
    mask: Tensor
    index: Tensor
    pool: Tensor
    pool_mask: Tensor


@dataclass(frozen=True)
class Loss:
    function: Callable[..., Summed]
    """What is tested."""
    compute: Callable[[Rows], Summed]
    """How it is called."""
    student: str
    """The student's shape, in letters."""
    teacher: str
    """The teacher's, where `T` is another width than the student's."""
    relates_rows: bool = False


def plain(
    function: Callable[..., Summed], student: str, teacher: str, relates_rows: bool = False, **keywords: object
) -> Loss:
    def compute(rows: Rows) -> Summed:
        return function(rows.student, rows.teacher, rows.mask, **keywords)

    return Loss(function, compute, student, teacher, relates_rows)


def pooled(pooling: str) -> Callable[[Rows], Summed]:
    def compute(rows: Rows) -> Summed:
        student, mask = pool_states(rows.student, rows.mask, pooling=pooling)
        teacher, _ = pool_states(rows.teacher, rows.mask, pooling=pooling)
        return hidden_state_loss(student, teacher, mask, kind="normalized_mse")

    return compute


def scores_from_queries(rows: Rows) -> Summed:
    scores = attention_scores(rows.student, rows.student, rows.mask, scaling=0.5)
    return attention_score_loss(scores, rows.teacher, rows.mask)


def centred_scores(rows: Rows) -> Summed:
    student, teacher = (
        attention_scores(states, states, rows.mask, scaling=0.5, centred=True)
        for states in (rows.student, rows.teacher)
    )
    return attention_score_loss(student, teacher, rows.mask, zero_at_padding=True)


def contrastive(rows: Rows) -> Summed:
    return angular_contrastive_loss(rows.student, rows.pool, rows.mask, rows.pool_mask, rows.index)


def weighted_states(rows: Rows) -> Summed:
    weights = ROW_WEIGHTS[rows.index]
    return hidden_state_loss(rows.student, rows.teacher, rows.mask, row_weights_B=weights)


def soft_labels(kind: str) -> Callable[[Rows], Summed]:
    return lambda rows: soft_label_loss(rows.student, rows.teacher, temperature=2.0, kind=kind)


def hard_labels(groups: tuple[tuple[int, int], ...] | None) -> Callable[[Rows], Summed]:
    return lambda rows: hard_label_loss(rows.student, LABELS[rows.index], groups=groups)


def weighted_labels(rows: Rows) -> Summed:
    weights = ROW_WEIGHTS[rows.index]
    return soft_label_loss(rows.student, rows.teacher, temperature=2.0, row_weights_B=weights)


def label_sets(rows: Rows) -> Summed:
    return multi_label_loss(rows.student, LABEL_SETS[rows.index])


def soft_label_sets(kind: str) -> Callable[[Rows], Summed]:
    return lambda rows: soft_multi_label_loss(rows.student, rows.teacher, temperature=2.0, kind=kind)


def spans(rows: Rows) -> Summed:
    last = (rows.mask.sum(-1) - 1).clamp(min=0)
    return span_loss(rows.student, torch.stack([last // 2, last], dim=-1), rows.mask)


def choices(rows: Rows) -> Summed:
    last = rows.mask.sum(-1) - 1  # -1 where there is no choice
    return choice_loss(rows.student, last, rows.mask)


def vectors(kind: str) -> Callable[[Rows], Summed]:
    return lambda rows: vector_loss(rows.student, rows.teacher, kind=kind)


LOSSES = {
    "value": Loss(value_loss, lambda rows: value_loss(rows.student, rows.teacher), "B", "B"),
    "label_sets": Loss(multi_label_loss, label_sets, "BC", "BC"),
    "soft_label_sets_kl": Loss(soft_multi_label_loss, soft_label_sets("kl"), "BC", "BC"),
    "soft_label_sets_mse": Loss(soft_multi_label_loss, soft_label_sets("mse"), "BC", "BC"),
    "spans": Loss(span_loss, spans, "BSE", "BSE"),
    "soft_spans_kl": plain(soft_span_loss, "BSE", "BSE", temperature=2.0, kind="kl"),
    "soft_spans_mse": plain(soft_span_loss, "BSE", "BSE", temperature=2.0, kind="mse"),
    "choices": Loss(choice_loss, choices, "BS", "BS"),
    "soft_choices_kl": plain(soft_choice_loss, "BS", "BS", temperature=2.0, kind="kl"),
    "soft_choices_mse": plain(soft_choice_loss, "BS", "BS", temperature=2.0, kind="mse"),
    "vectors_cosine": Loss(vector_loss, vectors("kl"), "BH", "BH"),
    "vectors_mse": Loss(vector_loss, vectors("mse"), "BH", "BH"),
    "attention_scores": Loss(attention_score_loss, scores_from_queries, "BASD", "BASS"),
    "attention_centred_scores": Loss(attention_score_loss, centred_scores, "BASD", "BASD"),
    "attention_score_loss": plain(attention_score_loss, "BASS", "BASS"),
    "probability_kl": plain(attention_probability_loss, "BASS", "BASS", kind="kl"),
    "probability_mse": plain(attention_probability_loss, "BASS", "BASS", kind="mse"),
    "probability_cosine": plain(attention_probability_loss, "BASS", "BASS", kind="cosine"),
    "state_mse": plain(hidden_state_loss, "BSH", "BSH"),
    "state_cosine": plain(hidden_state_loss, "BSH", "BSH", kind="cosine"),
    "state_smooth_l1": plain(hidden_state_loss, "BSH", "BSH", kind="smooth_l1"),
    "state_normalized_mse": plain(hidden_state_loss, "BSH", "BSH", kind="normalized_mse"),
    "state_weighted": Loss(hidden_state_loss, weighted_states, "BSH", "BSH"),
    "pooled_tokens": Loss(hidden_state_loss, pooled("tokens"), "BSH", "BSH"),
    "pooled_first": Loss(hidden_state_loss, pooled("first"), "BSH", "BSH"),
    "pooled_mean": Loss(hidden_state_loss, pooled("mean"), "BSH", "BSH"),
    "relation_own_heads": plain(relation_loss, "BASD", "BAST", num_heads=None),
    "relation_tokens": plain(relation_loss, "BASD", "BAST", num_heads=4),
    "relation_heads": plain(relation_loss, "BASD", "BAST", num_heads=4, across="heads"),
    "relation_samples": plain(relation_loss, "BASD", "BAST", relates_rows=True, num_heads=4, across="samples"),
    "soft_label_kl": Loss(soft_label_loss, soft_labels("kl"), "BC", "BC"),
    "soft_label_mse": Loss(soft_label_loss, soft_labels("mse"), "BC", "BC"),
    "soft_label_weighted": Loss(soft_label_loss, weighted_labels, "BC", "BC"),
    "hard_label": Loss(hard_label_loss, hard_labels(None), "BC", "BC"),
    "hard_label_groups": Loss(hard_label_loss, hard_labels(((0, 2), (2, 4), (4, 5))), "BC", "BC"),
    "contrastive": Loss(angular_contrastive_loss, contrastive, "LBSH", "LBSH"),
    "word_pair": plain(word_pair_loss, "BSH", "BST"),
    "word_angle": plain(word_angle_loss, "BSH", "BST", window=5),
    "layer_pair": plain(layer_pair_loss, "LBSH", "LBST"),
    "layer_angle": plain(layer_angle_loss, "LBSH", "LBST"),
    "token_pair": plain(token_pair_loss, "BSH", "BST", num_heads=2),
    "token_angle": plain(token_angle_loss, "BSH", "BST", num_heads=2, num_anchors=2, num_neighbours=3),
    "sample_angle": plain(sample_angle_loss, "BSH", "BST", relates_rows=True, num_heads=2),
}
WITH_PADDING = sorted(name for name, loss in LOSSES.items() if "S" in loss.student)

lengths_of_rows = st.lists(st.integers(0, 5), min_size=4, max_size=4)


def mask_of(lengths: Sequence[int], width: int) -> Tensor:
    return torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]


def drawn(letters: str, seed: int) -> Tensor:
    """Draw float64 values for rows of five tokens."""
    sizes = {**SIZES, "B": 4, "S": 5, "T": 12}
    generator = torch.Generator().manual_seed(seed)
    return torch.randn([sizes[letter] for letter in letters], generator=generator, dtype=torch.float64)


def with_padding(values: Tensor, letters: str, mask: Tensor, fill: float) -> Tensor:
    """Return the values in a tensor as wide as the mask, with `fill` at padding."""
    width = mask.shape[1]
    sizes = [width if letter == "S" else size for letter, size in zip(letters, values.shape, strict=True)]
    wide = torch.full(sizes, fill, dtype=values.dtype)
    wide[tuple(slice(size) for size in values.shape)] = values
    for axis, letter in enumerate(letters):
        if letter == "S":
            view = [1] * len(letters)
            view[letters.index("B")], view[axis] = mask.shape
            wide = wide.masked_fill(~mask.view(view), fill)
    return wide


def of_rows(loss: Loss, student: Tensor, teacher: Tensor, mask: Tensor, index: Tensor) -> Rows:
    return Rows(
        student.index_select(loss.student.index("B"), index),
        teacher.index_select(loss.teacher.index("B"), index),
        mask[index],
        index,
        teacher,
        mask,
    )


def whole(loss: Loss, student: Tensor, teacher: Tensor, mask: Tensor) -> Rows:
    return of_rows(loss, student, teacher, mask, torch.arange(len(mask)))


def value_and_gradient(
    name: str, lengths: Sequence[int], *, width: int = 5, fill: float = 0.0
) -> tuple[Summed, Tensor]:
    loss, mask = LOSSES[name], mask_of(lengths, width)
    student = with_padding(drawn(loss.student, 1), loss.student, mask, fill).requires_grad_()
    teacher = with_padding(drawn(loss.teacher, 2), loss.teacher, mask, fill)
    # Detects a NaN on the way to a gradient even if it is overwritten later.
    with torch.autograd.set_detect_anomaly(True):
        summed = loss.compute(whole(loss, student, teacher, mask))
        summed.total.backward()
    assert student.grad is not None
    return summed, student.grad


@pytest.mark.parametrize("name", WITH_PADDING)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_values_at_padding_do_not_affect_loss_or_gradient(name: str, poison: float) -> None:
    clean, clean_gradient = value_and_gradient(name, LENGTHS)
    summed, gradient = value_and_gradient(name, LENGTHS, fill=poison)
    assert torch.equal(summed.total, clean.total)
    assert torch.equal(summed.count, clean.count)
    assert torch.equal(gradient, clean_gradient)


@pytest.mark.parametrize("name", WITH_PADDING)
@given(lengths=lengths_of_rows, more=st.integers(1, 4))
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_more_padding_does_not_change_value_or_gradient(name: str, lengths: list[int], more: int) -> None:
    letters = LOSSES[name].student
    short, short_gradient = value_and_gradient(name, lengths)
    long, long_gradient = value_and_gradient(name, lengths, width=5 + more)
    torch.testing.assert_close(long.total, short.total, rtol=1e-12, atol=1e-12)
    assert torch.equal(long.count, short.count)
    kept = long_gradient[tuple(slice(size) for size in short_gradient.shape)]
    torch.testing.assert_close(kept, short_gradient, rtol=1e-12, atol=1e-12)
    padding = with_padding(torch.zeros_like(short_gradient), letters, mask_of(lengths, 5 + more), 1.0)
    assert not (long_gradient * padding).any()


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.relates_rows])
@given(lengths=lengths_of_rows, parts=st.lists(st.integers(0, 2), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_the_loss_of_microbatches_sums_to_that_of_the_batch(name: str, lengths: list[int], parts: list[int]) -> None:
    loss, mask = LOSSES[name], mask_of(lengths, 5)
    student, teacher = drawn(loss.student, 1).requires_grad_(), drawn(loss.teacher, 2)
    all_at_once = loss.compute(whole(loss, student, teacher, mask))
    (expected,) = torch.autograd.grad(all_at_once.total, student)
    total, count, gradient = 0.0, 0, torch.zeros_like(student)
    for part in set(parts):
        index = torch.tensor([row for row in range(4) if parts[row] == part])
        summed = loss.compute(of_rows(loss, student, teacher, mask, index))
        total += summed.total.item()
        count += int(summed.count)
        gradient += torch.autograd.grad(summed.total, student)[0]
    assert total == pytest.approx(all_at_once.total.item(), rel=1e-12, abs=1e-12)
    assert count == int(all_at_once.count)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.relates_rows])
def test_losses_across_rows_depend_on_the_other_rows(name: str) -> None:
    loss, mask = LOSSES[name], mask_of((5, 4, 5, 3), 5)
    student, teacher = drawn(loss.student, 1), drawn(loss.teacher, 2)
    total = loss.compute(whole(loss, student, teacher, mask)).total
    first = loss.compute(of_rows(loss, student, teacher, mask, torch.tensor([0, 1, 2]))).total
    last = loss.compute(of_rows(loss, student, teacher, mask, torch.tensor([3]))).total
    assert abs(float(total - first - last)) > 1e-3


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_equal_finite_differences(name: str) -> None:
    loss, mask = LOSSES[name], mask_of(LENGTHS, 5)
    student, teacher = drawn(loss.student, 3).requires_grad_(), drawn(loss.teacher, 4)
    assert torch.autograd.gradcheck(lambda student: loss.compute(whole(loss, student, teacher, mask)).total, (student,))


EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "ten thousand": lambda values: values.sign() * 1e4,
    "minus ten thousand": lambda values: torch.full_like(values, -1e4),
    "zeros": torch.zeros_like,
    "nearly nothing": lambda values: values * 1e-20,
    "mixed": lambda values: torch.where(values > 0, 1e4, 0.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extreme", sorted(EXTREMES))
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_finite_for_extreme_inputs(name: str, extreme: str, dtype: torch.dtype) -> None:
    loss, mask = LOSSES[name], mask_of(LENGTHS, 5)
    student = EXTREMES[extreme](drawn(loss.student, 1)).to(dtype).requires_grad_()
    for teacher in (drawn(loss.teacher, 2), EXTREMES[extreme](drawn(loss.teacher, 2))):
        summed = loss.compute(whole(loss, student, teacher.to(dtype), mask))
        (gradient,) = torch.autograd.grad(summed.total, student)
        assert torch.isfinite(summed.total)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(summed.mean())


@pytest.mark.parametrize("name", [name for name in WITH_PADDING if name != "contrastive"])
def test_a_batch_of_padding_has_zero_loss_and_zero_count(name: str) -> None:
    summed, gradient = value_and_gradient(name, (0, 0, 0, 0))
    assert (summed.total.item(), int(summed.count), summed.mean().item()) == (0.0, 0, 0.0)
    assert not gradient.any()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"state_weighted", "soft_label_weighted"}))
def test_half_precision_inputs_are_computed_in_float32_under_autocast(name: str) -> None:
    loss, mask = LOSSES[name], mask_of(LENGTHS, 5)
    student, teacher = drawn(loss.student, 1).bfloat16(), drawn(loss.teacher, 2).bfloat16()
    expected = loss.compute(whole(loss, student.float(), teacher.float(), mask)).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = loss.compute(whole(loss, student, teacher, mask)).total
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_float64_inputs_are_computed_in_float64(name: str) -> None:
    assert value_and_gradient(name, LENGTHS)[0].total.dtype == torch.float64


EQUAL_IS_ZERO = sorted(
    name
    for name, loss in LOSSES.items()
    if loss.student == loss.teacher.replace("T", loss.student[-1])
    and not name.startswith("hard_label")
    and name not in ("choices", "contrastive", "label_sets", "spans")
)


@pytest.mark.parametrize("name", EQUAL_IS_ZERO)
@given(seed=st.integers(0, 2**31), lengths=lengths_of_rows)
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
def test_losses_are_zero_for_equal_inputs_and_not_negative_otherwise(name: str, seed: int, lengths: list[int]) -> None:
    loss, mask = LOSSES[name], mask_of(lengths, 5)
    student = drawn(loss.student, seed)
    agreed = loss.compute(whole(loss, student, student.clone(), mask)).total.item()
    assert agreed == pytest.approx(0.0, abs=1e-12)
    different = loss.compute(whole(loss, student, drawn(loss.student, seed + 1), mask)).total.item()
    assert different >= -1e-12


def test_every_loss_of_the_package_is_tested() -> None:
    named = {name for name in stages.losses.__all__ if name.endswith("_loss")}
    assert {loss.function.__name__ for loss in LOSSES.values()} == named
