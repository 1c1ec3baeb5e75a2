"""Models of MLflow 3: logged once, whatever fails on the way, with files, scores and run."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException, get_error_code
from packaging.requirements import Requirement

from pipeline.tracking.logged_models import model_request, send_model
from pipeline.tracking.mlflow_form import _REQUIRED
from pipeline.tracking.run_files import Outbox, Point, Request
from pipeline.tracking.server import sync, unsent
from pipeline.tracking.session import Tracking
from tests.support.processes import free_port
from tests.unit.pipeline.tracking.values import history


def request(name: str = "task_specific", identity: str = "ab" * 32) -> Request:
    scores = [Point(7, 1000, {"eval/accuracy": 0.75})]
    return model_request(
        name, "model", identity, tags={"distill.task": "toy"}, params={"shape": {"layers": 2}}, scores=scores
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "components").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\nmodel_id: null\n")
    (folder / "components" / "vocabulary.txt").write_text("word\n")
    return folder


def models(client: Any, tracking: Tracking) -> list[Any]:
    assert tracking.experiment_id is not None
    return list(client.search_logged_models([tracking.experiment_id]))


def test_a_model_has_its_run_files_parameters_and_scores_and_is_ready(
    opened: Tracking, client: Any, files: Path
) -> None:
    child = opened.start_run("task_specific", {}, {})
    child.log(7, {"eval/accuracy": 0.5})
    assert child.log_model(request("mrpc/task_specific (5e-3 1.0)"), files)
    child.finish()
    (model,) = models(client, opened)
    assert (model.name, model.status, model.source_run_id) == ("mrpc_task_specific (5e-3 1_0)", "READY", child.run_id)
    assert model.params == {"shape.layers": "2"}
    assert model.tags["distill.task"] == "toy"
    assert [(metric.key, metric.value, metric.step) for metric in model.metrics] == [("eval/accuracy", 0.75, 7)]
    assert [output.model_id for output in client.get_run(child.run_id).outputs.model_outputs] == [model.model_id]
    stored = Path(model.artifact_location.removeprefix("file://"))
    assert (stored / "components" / "vocabulary.txt").read_text() == "word\n"
    assert f"model_id: {model.model_id}" in (stored / "MLmodel").read_text()
    assert f"run_id: {child.run_id}" in (stored / "MLmodel").read_text()


def test_a_request_that_was_cut_off_is_completed_and_one_that_is_repeated_changes_nothing(
    opened: Tracking, client: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = opened.start_run("task_specific", {}, {})
    assert child.run_id is not None
    upload = type(client).log_model_artifacts

    def fail(*_: object) -> None:
        raise ConnectionError("cut off")

    monkeypatch.setattr(type(client), "log_model_artifacts", fail)
    with pytest.raises(ConnectionError):
        send_model(client, child.run_id, request().values, files)
    assert [model.status for model in models(client, opened)] == ["PENDING"]
    monkeypatch.setattr(type(client), "log_model_artifacts", upload)
    first = send_model(client, child.run_id, request().values, files)
    again = send_model(client, child.run_id, request().values, files)
    other = send_model(client, child.run_id, request(identity="cd" * 32).values, files)
    assert first == again != other
    assert sorted(model.model_id for model in models(client, opened)) == sorted([first, other])
    assert {model.status for model in models(client, opened)} == {"READY"}
    assert len(client.get_run(child.run_id).outputs.model_outputs) == 2
    assert history(client, child.run_id, "eval/accuracy") == [(7, 0.75)]


def test_a_model_is_kept_while_the_server_is_away_and_sent_by_sync(
    database: str, client: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.process.settings import read_settings

    store = tmp_path / "store"
    away = Tracking(f"http://127.0.0.1:{free_port()}", tmp_path.name, store / "points", patience=5)
    with away.start_run("task_specific", {}, {}) as child:
        assert not child.log_model(request(), files)
    away.close()
    (kept,) = Outbox(child.points).requests()
    assert (kept.request.kind, (kept.files / "components" / "vocabulary.txt").is_file()) == ("model", True)
    assert unsent(child.points).artifacts == 1
    environment = {"MLFLOW_TRACKING_URI": database, "DISTILL_EXPERIMENT": tmp_path.name}
    report = sync(read_settings(store, environment), store / "points")
    assert (report.failure, report.refused, report.runs[0].left.artifacts) == (None, (), 0)
    assert report.runs[0].sent.artifacts == 1
    experiment = client.get_experiment_by_name(tmp_path.name)
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert (model.status, model.source_run_id) == ("READY", report.runs[0].run_id)


class OldServer:
    """The client of a server that has runs and no logged models."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if "logged_model" not in name:
            return getattr(self._client, name)

        def missing(*_: object, **__: object) -> None:
            raise MlflowException(f"API request to {name} failed", error_code=get_error_code(404))

        return missing


def test_a_server_without_logged_models_gets_the_files_as_artifacts_of_the_run(
    opened: Tracking, client: Any, files: Path
) -> None:
    child = opened.start_run("task_specific", {}, {})
    assert child.run_id is not None
    server = OldServer(client)
    with pytest.raises(MlflowException) as refusal:
        server.search_logged_models([])
    assert refusal.value.get_http_status_code() == 404
    assert send_model(server, child.run_id, request().values, files) is None
    assert {item.path for item in client.list_artifacts(child.run_id, "model")} == {"model/MLmodel", "model/components"}
    assert models(client, opened) == []


def closure(packages: tuple[str, ...]) -> set[str]:
    """All packages that installing some packages here installs, without extras."""
    reached: set[str] = set()
    waiting = list(packages)
    while waiting:
        if (name := waiting.pop().lower()) in reached:
            continue
        reached.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return reached


def test_requirements_of_models_reach_no_torch_and_so_nothing_for_graphics_cards() -> None:
    reached = closure(_REQUIRED)
    assert "transformers" in reached
    assert not {name for name in reached if name == "torch" or name.startswith("nvidia")}
    assert "torch" in closure(("accelerate",)), "torch would be found"
