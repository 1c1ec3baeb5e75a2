"""The speed benchmark measures the same computation on both sides, and its ratios follow from its rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import throughput
from benchmarks.speed import workload
from benchmarks.speed.subjects import Ours
from benchmarks.speed.workload import (
    BATCH_ROWS,
    MAX_LENGTH,
    OBJECTIVES,
    SHAPES,
    Objective,
    linear_flops,
    make_tokens,
    make_workload,
)
from benchmarks.speed.yardstick import Ingredients, Yardstick
from benchmarks.throughput import ROWS_ASKED_ONCE, Line, floor_rate, main
from schemas.recipe.student import StudentShape
from stages.models.student import encoder_flops
from stages.objective.terms import run_model

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that run in seconds instead of minutes, and few, short rows."""
    monkeypatch.setitem(SHAPES, "small", ((2, 48, 12, 64), (1, 24, 12, 32)))
    monkeypatch.setattr(workload, "VOCABULARY", 1200)
    monkeypatch.setattr(workload, "NUM_ROWS", 256)
    monkeypatch.setattr(throughput, "SECONDS_PER_ROUND", dict.fromkeys(OBJECTIVES, 0.01))


def test_the_rows_equal_those_announced() -> None:
    tokens = make_tokens()
    assert 24 <= sorted(tokens.lengths)[len(tokens) // 2] <= 26
    assert tokens.lengths.max() == MAX_LENGTH
    assert (tokens.ids == make_tokens().ids).all()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("objective", ["labels", "relations"])
def test_the_yardstick_computes_the_same_loss(objective: Objective) -> None:
    work = make_workload("small", CPU)
    ours = Ours(work, objective, "fp32").trainer
    plain = Yardstick(work, objective)
    for plain_model, our_model in ((plain.teacher, ours.teachers.models[0]), (plain.student, ours.student)):
        plain_model.load_state_dict(our_model.state_dict()) if objective == "labels" else (
            plain_model.base_model.load_state_dict(our_model.state_dict())
        )
    batch = work.tokens.batch(next(plain.rows))
    target = ours.teachers.target(batch)
    output = run_model(ours.student, batch, ours.objective.student_needs)
    counts = ours.objective.counts(batch)
    expected = sum(loss.total / counts[key] for key, loss in ours.objective.compute(output, target, batch).items())
    with torch.no_grad():
        torch.testing.assert_close(plain._loss(batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize(
    "ingredients", [Ingredients(), Ingredients(grouped=True, captured=True, bf16=True, fused=True)], ids=["none", "all"]
)
def test_a_yardstick_step_changes_the_student_and_not_the_teacher(
    objective: Objective, ingredients: Ingredients
) -> None:
    plain = Yardstick(make_workload("small", CPU), objective, ingredients)
    before = [
        [parameter.clone() for parameter in model.base_model.parameters()] for model in (plain.student, plain.teacher)
    ]
    assert plain.step() > BATCH_ROWS
    moved, still = (
        any(not torch.equal(old, new) for old, new in zip(known, model.base_model.parameters(), strict=True))
        for known, model in zip(before, (plain.student, plain.teacher), strict=True)
    )
    assert moved
    assert not still


def test_operation_counts_equal_those_of_the_plan() -> None:
    work = make_workload("base", CPU)
    shape = StudentShape(num_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    per_token = linear_flops(work.teacher) + workload.attention_flops(work.teacher, 128)
    assert per_token * 128 == encoder_flops(shape, sequence_length=128)


def test_the_floor_is_one_teacher_pass_and_three_student_passes() -> None:
    work = make_workload("base", CPU)
    length = work.mean_length
    rates = {("teacher", "fp32"): 2e9, ("student", "fp32"): 1e9}
    teacher = 12 * (2 * 4 * 768**2 + 4 * 768 * 3072 + 4 * length * 768)
    student = 4 * (2 * 4 * 312**2 + 4 * 312 * 1200 + 4 * length * 312)
    expected = 1 / (teacher / 2e9 + 3 * student / 1e9)
    assert floor_rate(work, rates, "fp32") == pytest.approx(expected)  # type: ignore[arg-type]


def test_a_rate_is_total_tokens_over_total_seconds() -> None:
    line = Line(running=None, tokens=[100, 300], seconds=[1.0, 1.0])  # type: ignore[arg-type]
    assert line.rates == [100, 300]
    assert line.rate == 200
    slow = Line(running=None, tokens=[100, 100], seconds=[1.0, 4.0])  # type: ignore[arg-type]
    assert slow.rate == 40


@pytest.mark.usefixtures("tiny")
def test_the_table_is_printed_and_every_number_is_stored(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    words = ["--shapes", "small", "--rounds", "2", "--precisions", "fp32", "--alone", ""]
    file = tmp_path / "out.json"
    result = CliRunner().invoke(app, [*words, "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    for objective in OBJECTIVES:
        selected = [row for row in rows if row["table"] == f"small, {objective}"]
        assert f"small, {objective}" in result.output
        variants = ["yardstick", "ours, fp32", "ours, fp32, int8 teacher", "ours, fp32, models alone"]
        assert [row["variant"] for row in selected] == variants
        for row in selected:
            assert len(row["tokens_per_second"]) == 2
            assert row["ratio"] == pytest.approx(row["rate"] / selected[0]["rate"])
            assert row["peak_bytes"] > 10**8
            assert row["share_of_floor"] > 0
    asked = [row["variant"] for row in rows if row["table"] == "small, latent, a later epoch"]
    assert asked == ["fp32, teacher asked in every epoch", "fp32, teacher asked once"]
    assert "outside the models" in result.output
    assert "processor: " in result.output


@pytest.mark.usefixtures("tiny")
def test_rows_for_a_cached_teacher_are_the_first_rows() -> None:
    tokens = make_tokens()
    few = tokens.first(ROWS_ASKED_ONCE // 2)
    assert len(few) == ROWS_ASKED_ONCE // 2
    assert few.digest != tokens.digest
    rows = np.arange(len(few))
    assert torch.equal(few.batch(rows).input_ids, tokens.batch(rows).input_ids)


def test_filters_that_match_nothing_are_refused() -> None:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["--shapes", "huge"])
    assert result.exit_code == 2
    assert "base, small" in result.output
