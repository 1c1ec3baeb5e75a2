"""Data that could not be sent while MLflow was unavailable is sent later: completely, in order, and once."""

from __future__ import annotations

import json
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.process.settings import Settings, read_settings
from pipeline.tracking import run_files
from pipeline.tracking import server as tracking_server
from pipeline.tracking.run_files import Outbox, PointFile, Request, read_points
from pipeline.tracking.server import Amount, Server, SyncReport, sync, unsent
from pipeline.tracking.session import TrackedRun, Tracking
from pipeline.tracking.views import CHILDREN, THIS_RUN, comparison
from schemas.core.errors import StoreError
from tests.support.processes import free_port
from tests.unit.pipeline.tracking.values import history


class World:
    """A store's points, the experiment of one test, and an unavailable and an available address of MLflow."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.points, self.experiment = folder, folder / "points", folder.name
        self.there, self.away = database, f"http://me:s3cret@127.0.0.1:{free_port()}"

    def tracking(self, uri: str) -> Tracking:
        return Tracking(uri, self.experiment, self.points, artifacts=self.folder / "artifacts", patience=60)

    def settings(self, uri: str) -> Settings:
        from_environment = read_settings(self.folder, {"MLFLOW_TRACKING_URI": uri})
        return from_environment.model_copy(update={"artifacts": self.folder / "artifacts"})

    def sync(self, uri: str | None = None) -> SyncReport:
        return sync(self.settings(uri or self.there), self.points)

    def runs(self, client: Any) -> dict[str, Any]:
        """Return the experiment's runs by name; fail if two have the same name."""
        experiment = client.get_experiment_by_name(self.experiment)
        all_runs = client.search_runs([experiment.experiment_id])
        by_name = {run.info.run_name: run for run in all_runs}
        assert len(by_name) == len(all_runs)
        return by_name


@pytest.fixture
def world(tmp_path: Path, database: str) -> World:
    return World(tmp_path, database)


def tell_all(run: TrackedRun, folder: Path) -> None:
    """Log points and everything else that a stage reports, all stored locally."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "model.safetensors").write_bytes(b"\x00\xff" * 1000)
    run.log(1, {"train/loss": 2.0})
    run.log(2, {"train/loss": 1.0, "eval/accuracy": 0.5})
    assert not run.log_file("first", "notes/report.md")
    assert not run.log_file("see http://me:pw@example.com", "notes/report.md")
    assert not run.log_file(b"\x89PNG", "curves.png")
    assert not run.log_artifacts(folder / "model", "model")
    assert not run.set_tags({"distill.checkpoint": "/somewhere"})
    assert not run.log_dataset("sst2", "d" * 64, "https://example.com/sst2")


def show(parent: TrackedRun) -> bool:
    """Describe the run and save its view; return whether the server has both."""
    view = comparison(CHILDREN, ["eval/accuracy"], "which stage helped")
    return all([parent.describe([f"run {THIS_RUN}"]), parent.save_view(view)])


def run_while_away(world: World) -> None:
    """Run a parent with one finished stage without a server."""
    tracking = world.tracking(world.away)
    parent = tracking.start_run("flow", {"recipe": {"name": "r"}}, {"distill.recipe": "r"})
    child = tracking.start_run("general", {"seed": 3}, {"distill.stage": "general"}, parent=parent)
    tell_all(child, world.folder)
    child.finish()
    assert not parent.log_file("table", "report.md")
    assert not show(parent)
    parent.finish()
    tracking.close()


def content(client: Any, run: Any, path: str, folder: Path) -> bytes:
    return Path(client.download_artifacts(run.info.run_id, path, str(folder))).read_bytes()


def check_whole(world: World, client: Any) -> None:
    """Check that everything of `run_while_away` is there exactly once."""
    runs = world.runs(client)
    assert set(runs) == {"flow", "general"}
    flow, general = runs["flow"], runs["general"]
    assert flow.data.params == {"recipe.name": "r"}
    assert flow.data.tags["distill.recipe"] == "r"
    assert flow.data.tags["mlflow.note.content"] == f"run {flow.info.run_id}\n"
    view = client.get_experiment(flow.info.experiment_id).tags[f"mlflow.sharedViewState.{flow.info.run_id}"]
    assert f"tags.mlflow.parentRunId = '{flow.info.run_id}'" in view
    assert general.data.tags["mlflow.parentRunId"] == flow.info.run_id
    assert general.data.tags["distill.checkpoint"] == "/somewhere"
    assert general.data.params == {"seed": "3"}
    assert (flow.info.status, general.info.status) == ("FINISHED", "FINISHED")
    assert history(client, general.info.run_id, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert history(client, general.info.run_id, "eval/accuracy") == [(2, 0.5)]
    (data,) = general.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("sst2", "d" * 36)
    scratch = world.folder / "read back"
    scratch.mkdir(exist_ok=True)
    assert content(client, general, "notes/report.md", scratch) == b"see http://example.com"
    assert content(client, general, "curves.png", scratch) == b"\x89PNG"
    weights = content(client, general, "model/model.safetensors", scratch)
    assert weights == b"\x00\xff" * 1000
    assert content(client, flow, "report.md", scratch) == b"table"


def test_a_run_made_without_a_server_is_sent_later_exactly_once(world: World, client: Any) -> None:
    run_while_away(world)
    before = {path: unsent(path) for path in world.points.glob("*.jsonl")}
    report = world.sync()
    assert report.failure is None
    assert report.refused == ()
    assert {run.name: (run.sent, run.left) for run in report.runs} == {
        # A description, a view and the end.
        "flow": (Amount(artifacts=1, notes=3), Amount()),
        # Four artifacts; a tag, a data set and the end.
        "general": (Amount(points=2, artifacts=4, notes=3), Amount()),
    }
    assert sorted(map(str, before.values())) == sorted(str(run.sent) for run in report.runs)
    check_whole(world, client)
    assert world.sync().runs == ()
    check_whole(world, client)
    assert not list(world.points.glob("*.unsent"))


def test_a_run_sent_later_keeps_its_original_times(world: World, client: Any) -> None:
    run_while_away(world)
    (path,) = [path for path in world.points.glob("*.jsonl") if run_files.read_header(path)["name"] == "general"]
    world.sync()
    info = world.runs(client)["general"].info
    first, *_, last = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert (info.start_time, info.end_time) == (first, last)


def test_the_next_run_sends_the_pending_data_of_an_earlier_one(world: World, client: Any) -> None:
    run_while_away(world)
    tracking = world.tracking(world.there)
    tracking.send_kept()
    tracking.close()
    check_whole(world, client)
    assert world.sync().runs == ()


def test_a_server_that_returns_during_a_run_receives_all_of_it(
    world: World, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.worker._RETRY_SECONDS", 0.0)
    tracking = world.tracking(world.away)
    parent = tracking.start_run("flow", {"recipe": {"name": "r"}}, {"distill.recipe": "r"})
    child = tracking.start_run("general", {"seed": 3}, {"distill.stage": "general"}, parent=parent)
    assert (parent.run_id, child.run_id) == (None, None)
    tell_all(child, world.folder)
    tracking.worker._server = None  # the same name now leads to a server
    arguments = world.there, world.experiment, world.points, world.folder / "artifacts"
    tracking.worker._connect = lambda complain: Server(*arguments, complain)
    child.finish()
    runs = world.runs(client)
    assert (child.run_id, parent.run_id) == (runs["general"].info.run_id, runs["flow"].info.run_id)
    assert parent.log_file("table", "report.md")
    assert show(parent)
    parent.finish()
    tracking.close()
    check_whole(world, client)


def test_an_interrupted_sync_reports_the_remainder_and_the_next_one_completes_it(
    world: World, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_while_away(world)
    broken = threading.Event()
    send = tracking_server.send_request

    def flaky(client: Any, run_id: str, request: Request, files: Path) -> None:
        if request.values.get("path") == "model":
            broken.set()
        if broken.is_set():
            raise MlflowException("API request to http://me:s3cret@host failed: refused")
        send(client, run_id, request, files)

    with monkeypatch.context() as patch:
        patch.setattr(tracking_server, "send_request", flaky)
        report = world.sync()
    assert report.failure is not None
    assert "distill sync again" in report.failure
    assert "s3cret" not in report.model_dump_json()
    (general,) = [run for run in report.runs if run.name == "general"]
    assert general.sent == Amount(points=2, artifacts=3)
    assert general.left == Amount(artifacts=1, notes=3)
    again = world.sync()
    assert again.failure is None
    assert [run.left for run in again.runs if run.name == "general"] == [Amount()]
    check_whole(world, client)


def test_a_run_with_a_lost_id_is_matched_without_duplicates(world: World, client: Any) -> None:
    run_while_away(world)
    copy = {path: path.read_bytes() for path in world.points.rglob("*") if path.is_file()}
    world.sync()
    # As if the process had been killed before it recorded anything: everything is pending again.
    for path in world.points.glob("*.sent"):
        path.unlink()
    for path, data in copy.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert world.sync().failure is None
    check_whole(world, client)


def test_an_active_run_is_left_to_its_process(world: World, client: Any) -> None:
    tracking = world.tracking(world.away)
    child = tracking.start_run("general", {}, {})
    child.log(1, {"train/loss": 1.0})
    (run,) = world.sync().runs
    assert (run.sent, run.left) == (Amount(), Amount(points=1))
    assert run.reason == "it is still running"
    child.finish()
    tracking.close()
    (run,) = world.sync().runs
    assert (run.sent, run.left) == (Amount(points=1, notes=1), Amount())
    assert world.runs(client)["general"].data.metrics == {"train/loss": 1.0}


def test_a_run_of_another_server_or_a_deleted_run_is_skipped_with_the_reason(world: World, client: Any) -> None:
    tracking = world.tracking(world.there)
    deleted = tracking.start_run("deleted", {}, {})
    tracking.close()
    client.delete_run(deleted.run_id)
    for key in (str(deleted.run_id), "f" * 32):
        run_files.PointFile(world.points / f"{key}.jsonl", {"name": key}).append(1, {"x": 1.0})
    report = world.sync()
    assert report.failure is None
    reasons = {run.key: run.reason or "" for run in report.runs}
    assert "is deleted there" in reasons[str(deleted.run_id)]
    assert "f" * 32 in reasons["f" * 32]
    # Nobody writes these runs any more, so their end is a separate request.
    assert all(run.left == Amount(points=1, notes=1) for run in report.runs)


def test_an_unreachable_server_keeps_pending_data_and_reveals_no_credentials(world: World) -> None:
    run_while_away(world)
    report = world.sync(world.away)
    assert report.failure is not None
    assert "cannot be reached" in report.failure
    assert str(world.points) in report.failure
    assert {run.name: run.left for run in report.runs} == {
        "flow": Amount(artifacts=1, notes=3),
        "general": Amount(points=2, artifacts=4, notes=3),
    }
    assert "s3cret" not in report.model_dump_json()
    assert world.sync(world.away).failure is not None


def test_partial_and_damaged_requests_do_not_block_the_others(
    world: World, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run_while_away(world)
    (folder,) = [path for path in world.points.glob("*.unsent") if (path / "000004").is_dir()]
    (folder / ".tmp-1-0123abcd-elsewhere").mkdir()
    (folder / "000001" / "request.json").write_text('{"kind": "arti')
    report = world.sync()
    assert report.failure is None
    check_whole(world, client)
    assert (folder / "000001").is_dir()
    assert "cannot be read and is not sent" in caplog.text


def test_pending_data_has_only_plain_formats(world: World) -> None:
    run_while_away(world)
    names = {path.name for path in world.points.rglob("*") if path.is_file()}
    suffixes = {Path(name).suffix for name in names if not name.startswith(".")}
    assert suffixes == {".jsonl", ".json", ".md", ".png", ".safetensors"}


def test_a_failed_write_of_a_request_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "run.unsent").write_text("in the way")
    outbox = Outbox(tmp_path / "run.jsonl")
    with pytest.raises(StoreError, match=r"run\.unsent"):
        outbox.keep(Request(kind="tags", values={"a": "b"}))


def test_a_failed_write_of_points_is_a_store_error_and_a_later_process_logs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PointFile(tmp_path / "run.jsonl", {})
    file.append(1, {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "run.jsonl").stat().st_size + 20, hard))
    try:
        with pytest.raises(StoreError, match="larger than allowed"):
            file.append(2, {"loss": 2.0})
        file.end("FAILED")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = PointFile(tmp_path / "run.jsonl", {})
    assert not again.append(1, {"loss": 1.0})
    assert again.append(2, {"loss": 2.0})
    points = [(point.step, point.metrics) for point in read_points(tmp_path / "run.jsonl")]
    assert points == [(1, {"loss": 1.0}), (2, {"loss": 2.0})]
