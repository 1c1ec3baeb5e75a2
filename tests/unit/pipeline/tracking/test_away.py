"""Tracking on servers that are down, hang, fail during a run, or refuse requests."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.tracking import client as tracking_client
from pipeline.tracking import run_files
from pipeline.tracking.session import TrackedRun, Tracking
from tests.support.processes import free_port
from tests.unit.pipeline.tracking.values import history


def flush(tracking: Tracking) -> None:
    """Make the tracking thread send the points of all runs now."""
    tracking.worker.ask("points", lambda _server: [tracking.worker._send(file) for file in tracking.worker.watched])


def log_some(child: TrackedRun, steps: int = 2000) -> float:
    """Log some points and return the seconds that it took."""
    started = time.monotonic()
    for step in range(steps):
        child.log(step, {"train/loss": 1.0})
    return time.monotonic() - started


def test_an_unreachable_server_costs_one_warning_and_no_points(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    started = time.monotonic()
    address = f"http://me:s3cret@127.0.0.1:{free_port()}"
    tracking = Tracking(address, "e", tmp_path / "points", patience=20)
    parent = tracking.start_run("r", {}, {})
    child = tracking.start_run("general", {}, {}, parent=parent)
    log_some(child)
    assert not child.log_file("x", "x.txt")
    child.finish()
    tracking.close()
    assert time.monotonic() - started < 15
    assert (parent.run_id, child.run_id) == (None, None)
    assert len(list(run_files.read_points(child.points))) == 2000
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert str(tmp_path / "points") in warnings[0]
    assert "http://127.0.0.1" in warnings[0]
    assert "s3cret" not in caplog.text


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    held = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)

        def hold() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in held:
        connection.close()


def test_a_hanging_server_is_abandoned_after_the_timeout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    started = time.monotonic()
    tracking = Tracking(f"http://127.0.0.1:{hanging_port}", "e", tmp_path / "points", patience=1.0)
    child = tracking.start_run("general", {}, {}, parent=tracking.start_run("r", {}, {}))
    assert log_some(child, steps=200) < 2
    child.finish()
    tracking.close()
    assert time.monotonic() - started < 6
    assert len(list(run_files.read_points(child.points))) == 200
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_a_server_that_fails_during_a_run_is_retried_and_receives_everything(
    database: str, tmp_path: Path, client: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    send = tracking_client.send_points

    def flaky(*args: Any) -> None:
        if broken.is_set():
            raise MlflowException("API request to http://me:pw@127.0.0.1 failed: connection refused")
        send(*args)

    monkeypatch.setattr("pipeline.tracking.server.send_points", flaky)
    monkeypatch.setattr("pipeline.tracking.worker._RETRY_SECONDS", 0.5)
    tracking = Tracking(database, tmp_path.name, tmp_path / "points", artifacts=tmp_path / "a")
    child = tracking.start_run("general", {}, {})
    child.log(1, {"train/loss": 1.0})
    flush(tracking)
    broken.set()
    child.log(2, {"train/loss": 2.0})
    flush(tracking)
    assert history(client, child.run_id, "train/loss") == [(1, 1.0)]
    broken.clear()
    child.log(3, {"train/loss": 3.0})
    time.sleep(0.6)
    child.finish()
    tracking.close()
    assert history(client, child.run_id, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert ":pw@" not in caplog.text


def test_a_refused_request_is_reported_once_and_the_server_stays_in_use(
    opened: Tracking, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    child = opened.start_run("general", {}, {})
    for _ in range(2):
        assert not child.set_tags({"mlflow.runName": "x" * 6000, "": "a tag without a name"})
    child.log(1, {"train/loss": 1.0})
    child.finish()
    assert history(client, child.run_id, "train/loss") == [(1, 1.0)]
    assert len([r for r in caplog.records if "refused tags" in r.getMessage()]) == 1


def test_a_late_response_does_not_create_a_second_run(
    database: str, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = threading.Event()
    create = tracking_client.create_run

    def slow(*arguments: Any, **more: Any) -> str:
        run_id = create(*arguments, **more)
        time.sleep(1.5)
        created.set()
        return run_id

    monkeypatch.setattr("pipeline.tracking.worker._RETRY_SECONDS", 0.5)
    locations = {"experiment": tmp_path.name, "points": tmp_path / "points", "artifacts": tmp_path / "a"}
    tracking = Tracking(database, patience=20, **locations)
    tracking.worker.patience = 0.5
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.server.create_run", slow)
        child = tracking.start_run("general", {"seed": 1}, {})
        assert child.run_id is None
        child.log(1, {"train/loss": 1.0})
        assert created.wait(10)
    child.finish()
    tracking.close()
    again = Tracking(database, patience=20, **locations)
    again.send_kept()
    again.close()
    assert again.experiment_id is not None
    (run,) = client.search_runs([again.experiment_id])
    assert run.data.params["seed"] == "1"
    assert run.info.status == "FINISHED"
    assert history(client, run.info.run_id, "train/loss") == [(1, 1.0)]
