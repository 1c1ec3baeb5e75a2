"""Tracking on a real MLflow with a SQLite file, and on servers that are dead, hang or fail."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from transformers import BertConfig, BertForSequenceClassification

from pipeline import tracking_client
from pipeline import tracking_points as kept
from pipeline.curves import loss_curves, stage_comparison
from pipeline.tracking import Tracking
from pipeline.tracking_client import load_mlflow
from pipeline.tracking_model import resolve_run, save_mlflow_model
from pipeline.tracking_points import Point, PointFile
from pipeline.tracking_run import TrackedRun
from schemas.errors import CheckpointError
from schemas.results import Judgement, Row, RunReport
from tests.builders import tiny_tokenizer


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for the module (its tables take seconds to make).

    Each test has its own experiment.
    """
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def no_mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's MLflow gets in; what load_mlflow sets is undone."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def opened(database: str, tmp_path: Path) -> Iterator[Tracking]:
    """Tracking on the database, experiment named after the test's folder."""
    tracking = Tracking.open(
        database, tmp_path.name, tmp_path / "points", artifacts=tmp_path / "artifacts"
    )
    yield tracking
    tracking.close()


@pytest.fixture
def client(database: str) -> Any:
    """MLflow's own client, to read back with."""
    return load_mlflow().MlflowClient(tracking_uri=database)


def history(client: Any, run_id: str | None, name: str) -> list[tuple[int, float]]:
    """All values of a metric by step."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def closed_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def test_parent_and_children_are_right_though_the_environment_names_a_run(
    opened: Tracking, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    parent = opened.parent_run(
        "ernie-tiny", {"student": {"shape": {"num_layers": 4}}}, {"distill.recipe": "e"}
    )
    assert parent.run_id is not None
    children = [
        opened.child_run(parent, name, {"stage": name}, {}) for name in ("general", "task_adaptive")
    ]
    for child in children:
        child.log(10, {"train/attention_loss": 0.5})
        child.finish()
    parent.finish()
    data = client.get_run(parent.run_id).data
    assert data.params == {"student.shape.num_layers": "4"}
    assert "mlflow.parentRunId" not in data.tags
    experiment = client.get_experiment(client.get_run(parent.run_id).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    found = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'", ViewType.ALL
    )
    assert {run.info.run_id for run in found} == {child.run_id for child in children}
    assert {run.info.run_name for run in found} == {"general", "task_adaptive"}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len({child.run_id for child in children} | {parent.run_id}) == 3


def test_points_reach_the_server_and_the_file_with_times_that_never_go_back(
    opened: Tracking, client: Any
) -> None:
    child = opened.child_run(None, "general", {}, {})
    for step in range(1, 1501):
        child.log(step, {"train/loss": 1 / step, "train/learning_rate": step * 1e-6})
    child.finish()
    assert history(client, child.run_id, "train/loss") == [
        (step, 1 / step) for step in range(1, 1501)
    ]
    times = [point.time for point in kept.read_points(child.points)]
    assert times == sorted(times)
    assert len(times) == 1500
    assert (kept.read_end(child.points) or ("",))[0] == "FINISHED"


def test_points_are_sent_while_the_stage_is_still_training(opened: Tracking, client: Any) -> None:
    child = opened.child_run(None, "general", {}, {})
    child.log(1, {"train/loss": 1.0})
    deadline = time.monotonic() + 15
    while not history(client, child.run_id, "train/loss") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert history(client, child.run_id, "train/loss") == [(1, 1.0)]


def test_a_resumed_stage_goes_on_in_its_own_run_and_logs_no_step_twice(
    database: str, tmp_path: Path, client: Any
) -> None:
    def one_process(steps: range, resume: str | None, end: str) -> str | None:
        tracking = Tracking.open(
            database, tmp_path.name, tmp_path / "points", artifacts=tmp_path / "a"
        )
        child = tracking.child_run(None, "general", {"seed": 1}, {"distill.digest": "abc"}, resume)
        for step in steps:
            child.log(step, {"train/loss": float(step)})
            if step % 5 == 0:
                child.log(step, {"eval/accuracy": step / 10})
        child.finish(end)
        tracking.close()
        return child.run_id

    first = one_process(range(1, 8), None, "KILLED")
    tracking = Tracking.open(database, tmp_path.name, tmp_path / "points")
    assert tracking.unfinished_run({"distill.digest": "abc"}) == first
    assert tracking.unfinished_run({"distill.digest": "xyz"}) is None
    second = one_process(range(5, 11), first, "FINISHED")
    assert second == first
    assert history(client, first, "train/loss") == [(step, float(step)) for step in range(1, 11)]
    assert history(client, first, "eval/accuracy") == [(5, 0.5), (10, 1.0)]
    assert client.get_run(first).info.status == "FINISHED"
    assert tracking.unfinished_run({"distill.digest": "abc"}) is None
    tracking.close()


def test_a_run_that_is_gone_is_replaced_by_a_new_one(opened: Tracking) -> None:
    child = opened.child_run(None, "general", {}, {}, resume_run_id="f" * 32)
    assert child.run_id is not None
    assert child.run_id != "f" * 32


def test_a_reused_stage_is_a_child_run_with_its_numbers_and_curves(
    opened: Tracking, client: Any
) -> None:
    made = opened.child_run(None, "general", {}, {})
    made.log(1, {"train/loss": 2.0})
    made.log(2, {"train/loss": 1.0})
    made.finish()
    parent = opened.parent_run("second", {}, {})
    reused = opened.reused_run(
        parent,
        "general",
        {},
        {},
        step=2,
        metrics={"train/loss": 1.0, "eval/accuracy": 0.5},
        made_by=made.run_id,
    )
    reused.finish()
    run = client.get_run(reused.run_id)
    assert run.data.tags["distill.reused"] == "true"
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.metrics == {"train/loss": 1.0, "eval/accuracy": 0.5}
    assert history(client, reused.run_id, "train/loss") == [(1, 2.0), (2, 1.0)]


def test_artifacts_tags_and_data_sets_arrive_without_credentials(
    opened: Tracking, client: Any, tmp_path: Path
) -> None:
    child = opened.child_run(
        None, "general", {"source": "http://me:pw@example.com/a"}, {"x": "http://me:pw@example.com"}
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "manifest.json").write_text("{}")
    assert child.log_artifacts(tmp_path / "folder", "checkpoint")
    assert child.log_text("see http://me:pw@example.com", "notes/report.md")
    assert child.log_picture(b"\x89PNG", "pictures/loss.png")
    assert child.log_dataset("sst2", "d" * 64, 100, "https://me:pw@example.com/sst2", "training")
    child.set_tags({"distill.stage": "general"})
    child.finish()
    run = client.get_run(child.run_id)
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "sst2"
    assert json.loads(data.dataset.profile) == {"num_rows": 100}
    assert data.tags[0].value == "training"
    assert run.data.tags["distill.stage"] == "general"
    stored = Path(run.info.artifact_uri.removeprefix("file://"))
    assert stored.is_relative_to(tmp_path / "artifacts")
    names = {path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()}
    assert names == {
        "checkpoint/manifest.json",
        "notes/report.md",
        "pictures/loss.png",
    }
    said = str(run.to_dictionary()) + "".join(
        p.read_text(errors="replace") for p in stored.rglob("*") if p.is_file()
    )
    said += str(data.dataset.source) + child.points.read_text()
    assert ":pw@" not in said


def log_some(child: TrackedRun, steps: int = 2000) -> float:
    """Seconds that logging took."""
    started = time.monotonic()
    for step in range(steps):
        child.log(step, {"train/loss": 1.0})
    return time.monotonic() - started


def test_a_dead_server_costs_one_warning_and_no_time_and_the_points_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    started = time.monotonic()
    address = f"http://me:s3cret@127.0.0.1:{closed_port()}"
    tracking = Tracking.open(address, "e", tmp_path / "points", patience=20)
    parent = tracking.parent_run("r", {}, {})
    child = tracking.child_run(parent, "general", {}, {})
    log_some(child)
    assert not child.log_text("x", "x.txt")
    child.finish()
    tracking.close()
    assert time.monotonic() - started < 15
    assert (parent.run_id, child.run_id) == (None, None)
    assert len(list(kept.read_points(child.points))) == 2000
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]
    assert len(warnings) == 1, warnings
    assert str(tmp_path / "points") in warnings[0]
    assert "http://127.0.0.1" in warnings[0]
    assert "s3cret" not in caplog.text


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A server that accepts and never answers."""
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


def test_a_server_that_hangs_is_given_up_after_the_patience(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    hanging_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    started = time.monotonic()
    tracking = Tracking.open(
        f"http://127.0.0.1:{hanging_port}", "e", tmp_path / "points", patience=1.0
    )
    child = tracking.child_run(tracking.parent_run("r", {}, {}), "general", {}, {})
    assert log_some(child, steps=200) < 2
    child.finish()
    tracking.close()
    assert time.monotonic() - started < 6
    assert len(list(kept.read_points(child.points))) == 200
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_a_server_that_dies_in_the_middle_is_asked_again_and_misses_nothing(
    database: str,
    tmp_path: Path,
    client: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = threading.Event()
    send = tracking_client.send_points

    def flaky(*args: Any) -> None:
        if broken.is_set():
            raise MlflowException(
                "API request to http://me:pw@127.0.0.1 failed: connection refused"
            )
        send(*args)

    monkeypatch.setattr("pipeline.tracking.send_points", flaky)
    monkeypatch.setattr("pipeline.tracking_worker._RETRY_SECONDS", 0.5)
    tracking = Tracking.open(database, tmp_path.name, tmp_path / "points", artifacts=tmp_path / "a")
    child = tracking.child_run(None, "general", {}, {})
    child.log(1, {"train/loss": 1.0})
    tracking.worker.flush(str(child.run_id))
    broken.set()
    child.log(2, {"train/loss": 2.0})
    tracking.worker.flush(str(child.run_id))
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


def test_what_the_server_refuses_is_said_once_and_does_not_count_as_down(
    opened: Tracking, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    child = opened.child_run(None, "general", {}, {})
    for _ in range(2):
        assert not child.set_tags({"mlflow.runName": "x" * 6000, "": "a tag without a name"})
    child.log(1, {"train/loss": 1.0})
    child.finish()
    assert history(client, child.run_id, "train/loss") == [(1, 1.0)]
    assert len([r for r in caplog.records if "refused tags" in r.getMessage()]) == 1


def test_a_later_value_at_the_newest_step_wins(opened: Tracking, client: Any) -> None:
    child = opened.child_run(None, "general", {}, {})
    child.log(5, {"eval/accuracy": 0.9, "train/loss": 1.0})
    child.log(5, {"eval/accuracy": 0.8, "train/loss": 1.0})
    child.log(4, {"train/loss": 3.0})
    child.finish()
    assert client.get_run(child.run_id).data.metrics == {"eval/accuracy": 0.8, "train/loss": 1.0}
    assert history(client, child.run_id, "train/loss") == [(5, 1.0)]


def test_half_a_line_left_by_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    file = PointFile(tmp_path / "a.jsonl", {"name": "n"})
    file.append(1, {"x": 1.0})
    with file.path.open("ab") as handle:
        handle.write(b'{"run": "a", "step": 2, "time": 1, "metr')
    again = PointFile(tmp_path / "a.jsonl")
    assert not again.append(1, {"x": 1.0})
    assert again.append(2, {"x": 2.0})
    assert [(point.step, point.metrics) for point in kept.read_points(file.path)] == [
        (1, {"x": 1.0}),
        (2, {"x": 2.0}),
    ]
    assert kept.read_header(file.path) == {"name": "n"}


def test_numbers_that_are_none_are_reported_and_do_not_raise(
    opened: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    child = opened.child_run(None, "general", {}, {})
    child.log(1, {"train/loss": "much"})  # type: ignore[dict-item]
    child.log(2, {"train/loss": float("nan")})
    child.finish()
    assert "are no numbers" in caplog.text


def test_the_mlflow_form_of_a_student_loads_with_the_same_logits_and_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Tracking, database: str
) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "bad", 1: "fair", 2: "good"},
    )
    model: Any = BertForSequenceClassification(config)
    model.eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"asked for {args}")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        save_mlflow_model(tmp_path / "model", tmp_path / "flavor")
    names = {path.name for path in (tmp_path / "flavor").rglob("*") if path.is_file()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt"))}
    assert str(tmp_path) not in "".join(
        p.read_text() for p in (tmp_path / "flavor").glob("*") if p.is_file()
    )
    child = opened.child_run(None, "task_specific", {}, {})
    assert child.log_artifacts(tmp_path / "flavor", "model")
    child.finish()
    # Not set_tracking_uri: it would leave MLFLOW_TRACKING_URI behind for every later test.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    loaded = load_mlflow().transformers.load_model(f"runs:/{child.run_id}/model")
    inputs = tokenizer("the film is not bad", return_tensors="pt")
    with torch.no_grad():
        # The last bit may differ: it depends on how the loader's memory is aligned.
        torch.testing.assert_close(
            loaded.model(**inputs).logits, model(**inputs).logits, rtol=1e-6, atol=1e-7
        )
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert loaded("the film is not bad")[0]["label"] in ("bad", "fair", "good")


def test_a_run_id_leads_to_its_checkpoint_here_or_downloaded(
    opened: Tracking, database: str, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    (made / "model").mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    (made / "model" / "config.json").write_text("{}")
    child = opened.child_run(None, "general", {}, {"distill.checkpoint": str(made)})
    child.log_artifacts(made, "checkpoint")
    child.finish()
    into = tmp_path / "downloads"
    assert resolve_run(str(child.run_id), uri=database, into=into) == made
    made.rename(tmp_path / "gone")
    found = resolve_run(str(child.run_id), uri=database, into=into)
    assert found == into / str(child.run_id) / "checkpoint"
    assert (found / "model" / "config.json").read_text() == "{}"


def test_a_run_id_without_a_checkpoint_is_refused_with_the_reason(
    opened: Tracking, database: str, tmp_path: Path
) -> None:
    parent = opened.parent_run("r", {}, {})
    with pytest.raises(CheckpointError, match="has no checkpoint; give the id of a stage's"):
        resolve_run(str(parent.run_id), uri=database, into=tmp_path)
    with pytest.raises(CheckpointError, match="knows no such run"):
        resolve_run("f" * 32, uri=database, into=tmp_path)
    with pytest.raises(CheckpointError, match="cannot be asked") as caught:
        resolve_run("f" * 32, uri=f"http://me:s3cret@127.0.0.1:{closed_port()}", into=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_pictures_are_made_of_full_partial_and_no_points() -> None:
    full = [
        Point(step, step, {"train/loss": 1 / step, "train/tokens": 64.0 * step, "x/y": 1.0})
        for step in range(1, 200)
    ]
    odd = [Point(1, 1, {"train/hidden_loss": 0.0, "train/attention_loss": float("nan")})]
    for points in (full, full[:1], odd, []):
        assert loss_curves(points, "general").startswith(b"\x89PNG")
    rows = (
        Row(name="teacher", kind="teacher", status="given", judgement=Judgement()),
        Row(name="general", kind="stage", status="ran", judgement=Judgement(probe_accuracy=0.5)),
    )
    for some in (rows, rows[:1], ()):
        report = RunReport(run="r", recipe="e", task=None, rows=some, seconds=1.0, store="s")
        assert stage_comparison(report).startswith(b"\x89PNG")


def test_importing_tracking_does_not_import_mlflow_or_matplotlib() -> None:
    code = (
        "import sys, pipeline.tracking, pipeline.curves, pipeline.tracking_model\n"
        "assert not {'mlflow', 'matplotlib', 'torch'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
