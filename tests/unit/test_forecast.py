"""The forecast of docs/scaling.md is the one that its command prints, and follows from counts and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig

from benchmarks import forecast
from benchmarks.forecast import PASS_OPERATIONS, SIZES, STUDENT, TEACHER, Range, assumed, step_of
from benchmarks.speed import workload
from benchmarks.speed.subjects import Ours
from benchmarks.speed.workload import SHAPES, make_workload
from schemas.recipe.objective import LatentObjective
from stages.models.attention_capture import CAPTURE
from stages.models.student import count_parameters
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import run_model
from tests.support.paths import ROOT


def test_the_page_has_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    _, _, rest = page.partition("<!-- forecast:begin -->\n\n")
    written, end, _ = rest.partition("\n<!-- forecast:end -->")
    assert end
    assert written == forecast.forecast(forecast.ROWS), "run: python -m benchmarks.forecast"


def test_models_have_the_sizes_of_the_forecast() -> None:
    assert count_parameters(config_of(STUDENT)) == SIZES.student
    assert count_parameters(config_of(TEACHER)) == SIZES.teachers


def config_of(shape: Any) -> BertConfig:
    return BertConfig(
        vocab_size=30_522,
        num_hidden_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
    )


def test_operations_of_the_losses_are_those_that_torch_counts() -> None:
    student, teacher = (
        AutoModel.from_config(config_of(shape), attn_implementation=CAPTURE) for shape in (STUDENT, TEACHER)
    )
    objective = ObjectiveTerms(LatentObjective(), student=student, teachers=[teacher], seed=0)
    assert sum(parameter.numel() for parameter in objective.parameters()) == SIZES.projections
    tokens = workload.make_tokens()
    (rows,) = (tokens.lengths == forecast.LENGTH).nonzero()
    batch = tokens.batch(rows[:2])
    with torch.no_grad():
        target = objective.read_teachers([teacher], batch)
        output = run_model(student, batch, objective.student_needs)
    # The student's own backward pass is no part of the losses: what they read are the ends of their gradient.
    hidden = {number: states.requires_grad_() for number, states in output.hidden.items()}
    for layer, states in output.recording.attention.items():
        queries, keys = states.query.requires_grad_(), states.key.requires_grad_()
        output.recording.attention[layer] = states._replace(query=queries, key=keys)
    with FlopCounterMode(display=False) as counted:
        losses = objective.compute(replace(output, hidden=hidden), target, batch)
        total = sum(loss.total for loss in losses.values())
        assert isinstance(total, torch.Tensor)
        total.backward()
    assert counted.get_total_flops() == batch.num_tokens * forecast.objective_operations()


class Started(TorchDispatchMode):
    """Counts the operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        is_view = any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns)
        self.number += not is_view and "empty" not in str(func)
        return func(*args, **(kwargs or {}))


def test_as_many_operations_are_started_as_the_forecast_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "base", ((12, 24, 12, 32), (4, 12, 12, 16)))
    monkeypatch.setattr(workload, "VOCABULARY", 1200)
    monkeypatch.setattr(workload, "NUM_ROWS", 256)
    trainer = Ours(make_workload("base", torch.device("cpu")), "latent", "fp32").trainer
    trainer.train_step()
    passes = len(trainer.microbatches())
    with Started() as whole:
        trainer.train_step()
    trainer.batches.microbatch_tokens = trainer.batches.microbatch_tokens // 16
    halves = len(trainer.microbatches())
    with Started() as cut:
        trainer.train_step()
    each = (cut.number - whole.number) / (halves - passes)
    assert each == pytest.approx(PASS_OPERATIONS, rel=0.1)
    assert whole.number / passes == pytest.approx(PASS_OPERATIONS, rel=0.1), "optimizer and clipping start few"


def test_a_step_is_the_sum_of_its_parts_by_hand() -> None:
    by = assumed(989)
    step = step_of(4096, 64, by)
    tokens = 4096 * 128 / 64
    per_token = 12 * 2 * (4 * 768**2 + 2 * 768 * 3072 + 2 * 128 * 768)
    assert step.teacher.best == pytest.approx(tokens * per_token / (0.5 * 989e12))
    assert step.start.worst == pytest.approx(PASS_OPERATIONS * 15e-6)
    gradient = 4 * (SIZES.student + SIZES.projections)
    assert step.gradients.worst == pytest.approx(2 * 63 / 64 * gradient / (25e9 / 8) + 126 * 1e-5)
    assert step.sums.best == pytest.approx(5 * 126 * 30e-6, rel=1e-3)
    models = step.teacher.worst + step.student.worst
    expected = max(models, step.start.worst) + step.batch.worst + step.gradients.worst + step.sums.worst
    assert step.seconds.worst == pytest.approx(expected)
    steps = 3.3e9 * 3 * 1.4 / (4096 * 128)
    assert forecast.hours_of(4096, 64, by).worst == pytest.approx(steps * expected / 3600)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.012"), (2.34, "2.3"), (989, "990"), (26812, "27,000"), (0, "0")]
)
def test_numbers_have_two_digits(value: float, text: str) -> None:
    assert forecast.two_digits(value) == text
    assert Range(value, value).shown() == text
    assert math.isclose(Range(1, 2).over(Range(4, 1)).worst, 2)
