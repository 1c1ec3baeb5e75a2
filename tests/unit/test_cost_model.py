"""The comparison of the cost model with measured steps, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.speed.cost_model import compared, main
from benchmarks.speed.workload import make_tokens
from stages.preflight.groups import LOOPBACK_BYTES, MESSAGE_SECONDS

STEPS, TOKENS, NUMBERS, RATE = 10, 10_000, 2_000_000, 2e11
ROUNDS = {
    "before": [{"processes": 1, "wall": 9.0, "tokens": TOKENS, "rate": RATE, "numbers": NUMBERS}],
    "1 process": [
        {"processes": 1, "wall": wall, "tokens": TOKENS, "rate": RATE, "numbers": NUMBERS, "exchange": 0, "sum": 0}
        for wall in (3.0, 4.0, 9.0)
    ],
    "2 processes": [
        {"processes": 2, "wall": 5, "tokens": TOKENS, "rate": RATE, "numbers": NUMBERS, "exchange": 0.01, "sum": 1e-4}
    ],
}


def test_steps_are_predicted_from_the_rate_and_from_one_process() -> None:
    one, two = compared(ROUNDS, STEPS)
    length = int(make_tokens().lengths.mean())
    # 6 blocks of 384 forward, 3 of 312 forward and backward; two operations a multiply-add
    teacher = 6 * 2 * (4 * 384**2 + 2 * 384 * 1536 + 2 * length * 384)
    student = 3 * 2 * (4 * 312**2 + 2 * 312 * 1200 + 2 * length * 312)
    operations = TOKENS / STEPS * (teacher + 3 * student)
    assert one["measured"] == 0.4, "the median round"
    assert one["plan"] == pytest.approx(operations / (0.35 * RATE))
    assert one["own"] == pytest.approx(0.4)
    assert one["share"] == pytest.approx(operations / (RATE * 0.4))
    waits = 4 * NUMBERS / (LOOPBACK_BYTES / 2) + 6 * 2 * MESSAGE_SECONDS
    assert two["measured"] == 0.5
    assert two["own"] == pytest.approx(0.4 + waits, rel=1e-4)
    assert two["plan"] == pytest.approx(one["plan"] + waits, rel=1e-4)


def test_errors_are_printed(tmp_path: Path) -> None:
    described = {"processor": "a processor", "commit": "abc", "date": "2026-11-28"}
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps(described | {"results": {"steps": STEPS, "rounds": ROUNDS}}), "utf-8")
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    _, two = compared(ROUNDS, STEPS)
    line = next(line for line in result.output.splitlines() if line.split()[:1] == ["2"])
    assert f"{100 * (two['own'] / 0.5 - 1):+.0f} %" in line
    assert "a processor, commit abc" in result.output
