"""`distill sync` against a real MLflow server that was unavailable during the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from pipeline.store.checkpoints import open_store, verify
from pipeline.tracking.artifacts import resolve_run
from tests.support.command_line import Distill
from tests.support.processes import free_port, running
from tests.support.toys import toy_recipe_dict


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[None]:
    """A real server that also accepts artifacts."""
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    )
    # MLflow's jobs are three more processes, for evaluations that nobody asks for here.
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(*command, env=env) as server:
        server.wait_for("Application startup complete", seconds=280)
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("prefect")
def test_a_run_without_a_server_is_sent_completely_once_the_server_returns(
    tmp_path: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str | Path) -> tuple[int, Any, str]:
        """Return the exit code, the JSON document on stdout (None if it is empty), and stderr."""
        code, out, err = distill(*arguments, "--store", store, "--json")
        assert "Traceback" not in err, err
        return code, json.loads(out) if out else None, err

    content = toy_recipe_dict(tmp_path / "in")
    content["stages"] = [content["stages"][3]]  # one stage with a classifier at its end
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    port, store = free_port(), tmp_path / "store"
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:canary@127.0.0.1:{port}")
    code, report, stderr = run("run", recipe)
    assert code == 0, stderr
    assert report["mlflow_run_id"] is None

    code, synced, stderr = run("sync")
    assert code == 1
    assert stderr.count("error:") == 1
    assert f"MLflow at {address} cannot be reached" in stderr
    assert "canary" not in stderr + json.dumps(synced)
    left = {run["name"].rpartition(" ")[2]: run["left"] for run in synced["runs"]}
    assert set(left) == {"toy", "teacher", "before", "task_specific"}
    assert left["task_specific"]["points"] >= 4
    # Its config, manifest, two figures and a smaller one, the model in MLflow's form, and the checkpoint for others.
    assert left["task_specific"]["artifacts"] == 7

    with mlflow_server(port, tmp_path):
        code, synced, stderr = run("sync")
        assert code == 0, stderr
        assert {run["name"].rpartition(" ")[2]: run["sent"] for run in synced["runs"]} == left
        assert not any(amount for run in synced["runs"] for amount in run["left"].values())
        before = everything(address)
        code, synced, stderr = run("sync")
        assert (code, synced["runs"]) == (0, [])
        assert everything(address) == before

        # A run with the server prints only its report, without MLflow's links.
        code, again, stderr = run("run", recipe)
        assert code == 0, stderr
        assert again["rows"][-1]["status"] == "reused"

        # The student is registered there, as a model of the run that made it.
        code, registered, stderr = run("register", again["run"], "--fp32")
        assert code == 0, stderr
        assert registered["is_champion"]
        version = MlflowClient(tracking_uri=address).get_model_version_by_alias(registered["name"], "champion")
        assert version.run_id == before["task_specific"]["id"]
        code, same, stderr = run("register", report["run"], "--fp32")
        assert (code, same["version"], same["is_new"], same["is_champion"]) == (0, registered["version"], False, True)

        # An empty store on another machine can resume from it.
        store.rename(tmp_path / "elsewhere")
        other_store = open_store(tmp_path / "other")
        checkpoint = resolve_run(before["task_specific"]["id"], uri=address, store=other_store)
        assert verify(checkpoint).digest == again["rows"][-1]["checkpoint"]["digest"]
        assert checkpoint.is_relative_to(other_store.root)

    stage = before["task_specific"]
    assert stage["parent"] == before[report["run"]]["id"]
    assert stage["status"] == "FINISHED"
    assert stage["loss steps"] == [1, 2, 3, 4]
    artifacts = {"config.json", "manifest.json", "curves.png", "terms.png", "reduced", "checkpoint"}
    assert stage["artifacts"] == artifacts
    assert stage["models"] == [("task_specific", "READY")]
    assert stage["data sets"] == 1
    assert {"report.json", "report.md", "stages.png", "reduced"} == before[report["run"]]["artifacts"]


def everything(address: str) -> dict[str, Any]:
    """Return what the server stores of each run, by the name of the run in its store, or of the stage."""
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("distill-flow")
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {
        run.data.tags.get("distill.run", run.info.run_name): {
            "id": run.info.run_id,
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "status": run.info.status,
            "metrics": run.data.metrics,
            "loss steps": [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")],
            "artifacts": {item.path for item in client.list_artifacts(run.info.run_id)},
            "models": [
                (model.name, str(model.status))
                for output in run.outputs.model_outputs
                if (model := client.get_logged_model(output.model_id))
            ],
            "data sets": len(run.inputs.dataset_inputs),
        }
        for run in runs
    }
