"""Runs, points, artifacts and tags in a real MLflow with a SQLite file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType

from pipeline.tracking import client as tracking_client
from pipeline.tracking import run_files
from pipeline.tracking.run_files import PointFile, read_points
from pipeline.tracking.session import Tracking
from pipeline.tracking.system_metrics import system_metrics
from pipeline.tracking.views import CHILDREN, THIS_EXPERIMENT, THIS_RUN, THIS_VIEW, comparison
from tests.support.manifests import manifest_of
from tests.unit.pipeline.tracking.values import history


def test_parent_and_children_are_correct_if_the_environment_names_a_run(
    opened: Tracking, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    parent = opened.start_run("ernie-tiny", {"student": {"shape": {"num_layers": 4}}}, {"distill.recipe": "e"})
    assert parent.run_id is not None
    children = [opened.start_run(name, {"stage": name}, {}, parent=parent) for name in ("general", "task_adaptive")]
    for child in children:
        child.log(10, {"train/attention_loss": 0.5})
        child.finish()
    parent.finish()
    data = client.get_run(parent.run_id).data
    assert data.params == {"student.shape.num_layers": "4"}
    assert "mlflow.parentRunId" not in data.tags
    experiment = client.get_experiment(client.get_run(parent.run_id).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'", ViewType.ALL
    )
    assert {run.info.run_id for run in runs} == {child.run_id for child in children}
    assert {run.info.run_name for run in runs} == {"general", "task_adaptive"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({child.run_id for child in children} | {parent.run_id}) == 3


def test_points_reach_server_and_file_with_monotonic_times(opened: Tracking, client: Any) -> None:
    child = opened.start_run("general", {}, {})
    for step in range(1, 1501):
        child.log(step, {"train/loss": 1 / step, "train/learning_rate": step * 1e-6})
    child.finish()
    assert history(client, child.run_id, "train/loss") == [(step, 1 / step) for step in range(1, 1501)]
    times = [point.time for point in run_files.read_points(child.points)]
    assert times == sorted(times)
    assert len(times) == 1500
    assert (run_files.read_end(child.points) or ("",))[0] == "FINISHED"


def test_points_are_sent_during_training(opened: Tracking, client: Any) -> None:
    child = opened.start_run("general", {}, {})
    child.log(1, {"train/loss": 1.0})
    deadline = time.monotonic() + 15
    while not history(client, child.run_id, "train/loss") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert history(client, child.run_id, "train/loss") == [(1, 1.0)]


def test_a_resumed_stage_continues_its_run_without_repeating_steps(database: str, tmp_path: Path, client: Any) -> None:
    def one_process(steps: range, resume: str | None, end: str) -> str | None:
        tracking = Tracking(database, tmp_path.name, tmp_path / "points", artifacts=tmp_path / "a")
        child = tracking.start_run("general", {"seed": 1}, {"distill.digest": "abc"}, resumed=resume)
        for step in steps:
            child.log(step, {"train/loss": float(step)})
            if step % 5 == 0:
                child.log(step, {"eval/accuracy": step / 10})
        child.finish(end)
        tracking.close()
        return child.run_id

    first = one_process(range(1, 8), None, "KILLED")
    tracking = Tracking(database, tmp_path.name, tmp_path / "points")
    assert tracking.unfinished_run("abc") == first
    assert tracking.unfinished_run("xyz") is None
    second = one_process(range(5, 11), first, "FINISHED")
    assert second == first
    assert history(client, first, "train/loss") == [(step, float(step)) for step in range(1, 11)]
    assert history(client, first, "eval/accuracy") == [(5, 0.5), (10, 1.0)]
    assert client.get_run(first).info.status == "FINISHED"
    assert tracking.unfinished_run("abc") is None
    tracking.close()


def test_a_deleted_run_is_replaced_by_a_new_one(opened: Tracking) -> None:
    child = opened.start_run("general", {}, {}, resumed="f" * 32)
    assert child.run_id is not None
    assert child.run_id != "f" * 32


def test_a_reused_stage_names_the_run_that_trained_it_and_has_its_scores(opened: Tracking, client: Any) -> None:
    original = opened.start_run("general", {}, {})
    original.log(1, {"train/loss": 2.0})
    original.log(2, {"train/loss": 1.0})
    original.finish()
    assert original.run_id is not None
    parent = opened.start_run("second", {}, {})
    metrics = {"train/loss": 1.0, "eval/accuracy": 0.5}
    manifest = manifest_of(steps=2, metrics=metrics, mlflow_run_id=original.run_id)

    def reused() -> Any:
        run = opened.reused_run("general", {}, {}, parent=parent, manifest=manifest)
        run.finish()
        return client.get_run(run.run_id)

    run = reused()
    assert run.info.run_name == "general (reused)"
    assert run.data.tags["distill.reused"] == "true"
    assert run.data.tags["distill.trained_by"] == original.run_id
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.metrics == {"eval/accuracy": 0.5}
    client.delete_run(original.run_id)
    run = reused()
    assert "distill.trained_by" not in run.data.tags
    assert run.data.metrics == metrics
    assert history(client, run.info.run_id, "train/loss") == [(1, 2.0), (2, 1.0)]


def test_descriptions_and_views_have_the_ids_that_only_the_server_knows(opened: Tracking, client: Any) -> None:
    parent = opened.start_run("flow", {}, {})
    parent.describe(["x" * 10_000, f"run {THIS_RUN} of {THIS_EXPERIMENT}: {THIS_VIEW}", "y" * 4_790])
    parent.save_view(comparison(CHILDREN, ["eval/accuracy"], "which stage helped"))
    parent.finish()
    tags = client.get_run(parent.run_id).data.tags
    assert tags["mlflow.note.content"] == (
        f"run {parent.run_id} of {opened.experiment_id}: #/experiments/{opened.experiment_id}/runs"
        f"?viewStateShareKey={parent.run_id}&compareRunsMode=CHART&workflowType=machine_learning\n"
    )
    experiment = client.get_experiment(opened.experiment_id)
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{parent.run_id}"])
    assert view["searchFilter"] == f"tags.mlflow.parentRunId = '{parent.run_id}'"
    assert [chart["metricKey"] for chart in view["compareRunCharts"]] == ["eval/accuracy"]
    assert client.search_runs([opened.experiment_id], view["searchFilter"]) == []
    runs = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.distill-runs"])["state"])
    assert client.search_runs([opened.experiment_id], runs["searchFilter"]) == []


def test_an_experiment_of_others_gets_no_note(database: str, tmp_path: Path, client: Any) -> None:
    theirs = client.create_experiment("theirs", tags={"mlflow.note.content": "ours alone"})
    Tracking(database, "theirs", tmp_path / "points").close()
    assert client.get_experiment(theirs).tags["mlflow.note.content"] == "ours alone"


def test_system_metrics_are_points_of_the_run(opened: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    child = opened.start_run("general", {}, {})
    with system_metrics(child, first_seconds=0.01):
        deadline = time.monotonic() + 60
        while "system/" not in child.points.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
    (point, *_) = read_points(child.points)
    assert 0 < point.metrics["system/system_memory_usage_percentage"] < 100
    assert point.step == 0
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    other = opened.start_run("other", {}, {})
    with system_metrics(other, first_seconds=0.001):
        time.sleep(0.05)
    assert list(read_points(other.points)) == []


def test_artifacts_tags_and_data_sets_arrive_without_credentials(opened: Tracking, client: Any, tmp_path: Path) -> None:
    child = opened.start_run("general", {"source": "http://me:pw@example.com/a"}, {"x": "http://me:pw@example.com"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "manifest.json").write_text("{}")
    assert child.log_artifacts(tmp_path / "folder", "checkpoint")
    assert child.log_file("see http://me:pw@example.com", "notes/report.md")
    assert child.log_file(b"\x89PNG", "pictures/loss.png")
    assert child.log_dataset("sst2", "d" * 64, "https://me:pw@example.com/sst2")
    child.set_tags({"distill.stage": "general"})
    child.finish()
    run = client.get_run(child.run_id)
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "sst2"
    assert json.loads(data.dataset.profile) == {"num_rows": None}
    assert data.tags[0].value == "training"
    assert run.data.tags["distill.stage"] == "general"
    stored = Path(run.info.artifact_uri.removeprefix("file://"))
    assert stored.is_relative_to(tmp_path / "artifacts")
    names = {path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()}
    assert names == {"checkpoint/manifest.json", "notes/report.md", "pictures/loss.png"}
    sent = str(run.to_dictionary()) + "".join(p.read_text(errors="replace") for p in stored.rglob("*") if p.is_file())
    sent += str(data.dataset.source) + child.points.read_text()
    assert ":pw@" not in sent


def test_a_later_value_at_the_newest_step_wins(opened: Tracking, client: Any) -> None:
    child = opened.start_run("general", {}, {})
    child.log(5, {"eval/accuracy": 0.9, "train/loss": 1.0})
    child.log(5, {"eval/accuracy": 0.8, "train/loss": 1.0})
    child.log(4, {"train/loss": 3.0})
    child.finish()
    assert client.get_run(child.run_id).data.metrics == {"eval/accuracy": 0.8, "train/loss": 1.0}
    assert history(client, child.run_id, "train/loss") == [(5, 1.0)]


def test_a_partial_line_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    file = PointFile(tmp_path / "a.jsonl", {"name": "n"})
    file.append(1, {"x": 1.0})
    with file.path.open("ab") as handle:
        handle.write(b'{"run": "a", "step": 2, "time": 1, "metr')
    again = PointFile(tmp_path / "a.jsonl")
    assert not again.append(1, {"x": 1.0})
    assert again.append(2, {"x": 2.0})
    assert [(point.step, point.metrics) for point in run_files.read_points(file.path)] == [
        (1, {"x": 1.0}),
        (2, {"x": 2.0}),
    ]
    assert run_files.read_header(file.path) == {"name": "n"}


def test_non_finite_values_are_reported_and_do_not_raise(opened: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    child = opened.start_run("general", {}, {})
    child.log(1, {"train/loss": "much"})  # type: ignore[dict-item]
    child.log(2, {"train/loss": float("nan")})
    child.finish()
    assert "are not numbers" in caplog.text


def test_a_process_killed_while_mlflow_creates_its_tables_leaves_no_broken_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.db import utils

    address = f"sqlite:///{tmp_path}/new/mlflow.db"
    make = utils._initialize_tables

    def half(engine: Any) -> None:
        make(engine)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", half)
        with pytest.raises(KeyboardInterrupt):
            tracking_client.make_database(address)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mlflow.db.lock"]
    tracking_client.make_database(address)
    client = tracking_client.load_mlflow().MlflowClient(tracking_uri=address)
    assert [experiment_of_database.name for experiment_of_database in client.search_experiments()] == ["Default"]
    before = (tmp_path / "new" / "mlflow.db").stat().st_ino
    tracking_client.make_database(address)
    assert (tmp_path / "new" / "mlflow.db").stat().st_ino == before
