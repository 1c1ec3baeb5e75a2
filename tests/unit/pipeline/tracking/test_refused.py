"""An unusual name, value or file does not keep other data out of MLflow."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.process.settings import read_settings
from pipeline.tracking import run_files
from pipeline.tracking.client import safe_name
from pipeline.tracking.server import sync
from pipeline.tracking.session import Tracking
from tests.unit.pipeline.tracking.values import history


def write_run(points: Path, key: str, *lines: bytes | dict[str, Any], **header: Any) -> Path:
    points.mkdir(parents=True, exist_ok=True)
    begin = {"run": key, "time": 1, "header": {"name": key, "experiment": "odd", **header}}
    content = [begin, *lines]
    path = points / f"{key}.jsonl"
    path.write_bytes(
        b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in content)
    )
    return path


def point(step: int, **metrics: float) -> dict[str, Any]:
    return {"run": "r", "step": step, "time": 5, "metrics": metrics}


def test_a_run_with_unusual_parameter_names_and_later_runs_reach_mlflow(
    database: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    settings = read_settings(tmp_path)
    points = tmp_path / "points"
    write_run(
        points,
        "local-1",
        point(1, **{"eval/hard (2024)/f1": 0.5, "train/loss": 1.0}),
        params={"task.more_validation.hard (2024)": "x", "task.kind": "files"},
    )
    write_run(points, "local-2", point(1, **{"train/loss": 2.0}))
    report = sync(settings, points)
    assert report.failure is None
    assert report.refused == ()
    first, second = (client.get_run(run.run_id) for run in report.runs)
    assert second.data.metrics == {"train/loss": 2.0}
    assert first.data.metrics == {safe_name("eval/hard (2024)/f1"): 0.5, "train/loss": 1.0}
    assert first.data.params["task.kind"] == "files"
    assert safe_name("task.more_validation.hard (2024)") in first.data.params


def test_a_value_refused_by_mlflow_does_not_block_the_others(
    opened: Tracking, client: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.client.safe_name", lambda name: name)
    child = opened.start_run("general", {"a": 1, "odd(": 2}, {})
    for step in range(40):
        child.log(step, {"odd(" if step == 20 else "loss": float(step)})
    child.finish()
    assert [step for step, _ in history(client, child.run_id, "loss")] == [*range(20), *range(21, 40)]
    assert client.get_run(child.run_id).data.params == {"a": "1"}
    assert "1 of 40 values (odd()" in caplog.text
    assert "cannot be reached" not in caplog.text


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("eval/accuracy", "eval/accuracy"),
        ("eval/трудные строки/f1", "eval/трудные строки/f1"),
        ("a/../b", "a/_/b-"),
        ("hard (2024)", "hard _2024_-"),
        ("x" * 300, "x" * 243 + "-"),
        ("/a", "_/a-"),
    ],
)
def test_names_are_converted_to_distinct_names_that_mlflow_accepts(name: str, safe: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    got = safe_name(name)
    _validate_metric_name(got)
    assert got == safe if got == name else got[:-6] == safe
    assert safe_name("hard (1)") != safe_name("hard [1]")


def test_forged_lines_are_ignored_and_other_runs_are_sent(
    database: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setattr(run_files, "_LONGEST_LINE", 200_000)
    points = tmp_path / "points"
    deep = b'{"metrics": ' + b"[" * 100_000 + b"\n"
    write_run(
        points,
        "local-a",
        b'{"step": 1e999, "time": 1, "metrics": {"x": 1}}\n',
        b'{"step": 1, "time": 1e999, "metrics": {"x": 1}}\n',
        b'{"step": ' + b"9" * 30 + b', "time": 1, "metrics": {"x": 1}}\n',
        b'{"step": -1, "time": 1, "metrics": {"x": 1}}\n',
        b'{"step": 1, "time": 1, "metrics": {"x": "1e400"}, "metrics": [1]}\n',
        deep,
        b"x" * 900_000 + b'"metrics"\n',
        point(3, good=3.0),
        b'{"ended": "FINISHED", "time": 1e999}\n',
        tags={"mlflow.parentRunId": 5, "a": {"b": 1}},
        params={"n": {"deep": [1]}},
    )
    write_run(points, "local-b", experiment=["no name"], name=7, tags=3, params="x")
    write_run(points, "local-c", point(1, good=1.0))
    began = time.monotonic()
    report = sync(read_settings(tmp_path), points)
    assert time.monotonic() - began < 20
    assert report.failure is None
    ids = {run.key: run.run_id for run in report.runs}
    assert history(client, ids["local-a"], "good") == [(3, 3.0)]
    assert history(client, ids["local-c"], "good") == [(1, 1.0)]


def test_a_file_that_cannot_be_sent_is_reported_and_later_ones_are_sent(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    points = tmp_path / "points"
    write_run(points, "local-a", point(1, good=1.0), experiment="x" * 600)  # MLflow takes 500
    write_run(points, "local-b", point(1, good=1.0))
    report = sync(read_settings(tmp_path), points)
    assert report.failure is None
    first, second = report.runs
    assert first.left
    assert "MLflow refuses it" in str(first.reason)
    assert not second.left
