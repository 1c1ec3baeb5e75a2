"""`prefect deployment run distill-flow/quickstart` against a running server, as described in the README."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from pipeline.deployment import deployments_yaml
from pipeline.pools.registered import ENTRYPOINT, JOB_VARIABLES
from pipeline.recipes.shipped import read_recipe, shipped_names
from tests.support.paths import ROOT
from tests.support.processes import forked, free_port, running
from tests.support.toys import toy_recipe_dict


@pytest.mark.slow
def test_a_deployment_runs_to_its_end_on_a_started_server(tmp_path: Path, prefect_home: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in")), encoding="utf-8")
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {"PREFECT_API_URL": api, "PREFECT_HOME": str(prefect_home)}
    prefect = (sys.executable, "-m", "prefect")
    parameters = {"recipe": str(recipe), "options": {"store": str(tmp_path / "store")}}
    with running(*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port), env=env) as server:
        server.wait_for("Check out the dashboard")
        with forked("serve", env=env) as worker:
            worker.wait_for("ready: serving")
            served = httpx.post(f"{api}/deployments/filter", json={}).json()
            assert len(served) == len(shipped_names())
            assert {deployment["entrypoint"] for deployment in served} == {"pipeline.flow.distill_flow"}
            command = (*prefect, "deployment", "run", "distill-flow/quickstart", "--watch")
            with running(*command, "--params", json.dumps(parameters), env=env) as run:
                code = run.wait(280)
            assert code == 0, run.output + worker.output
        names = {task["name"] for task in httpx.post(f"{api}/task_runs/filter", json={}).json()}
        assert {"teacher", "general", "general_enhanced", "task_adaptive", "task_specific"} <= names
        flow_run = httpx.post(f"{api}/flow_runs/filter", json={}).json()[0]
        assert flow_run["state_type"] == "COMPLETED"
        assert flow_run["parameters"]["recipe"] == str(recipe)
        tables = httpx.post(f"{api}/artifacts/filter", json={}).json()
        assert {"toy-stages", "toy-result"} <= {table["key"] for table in tables}
    assert list((tmp_path / "store" / "checkpoints").glob("task_specific-*"))


def test_prefect_yaml_is_what_its_command_writes_and_has_a_deployment_per_recipe_and_of_stages() -> None:
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    assert text == deployments_yaml(), "run: python -m pipeline.deployment > prefect.yaml"
    *deployments, stages = yaml.safe_load(text)["deployments"]
    assert stages["entrypoint"] == ENTRYPOINT
    assert stages["work_pool"] == {"name": "distill", "job_variables": JOB_VARIABLES}
    assert [deployment["name"] for deployment in deployments] == shipped_names()
    for deployment in deployments:
        assert deployment == {
            "name": deployment["name"],
            "description": read_recipe(deployment["name"]).description,
            "entrypoint": "pipeline.flow.distill_flow",
            "parameters": {"recipe": deployment["name"]},
            "tags": ["distill"],
            "work_pool": {"name": "distill"},
        }


@pytest.mark.parametrize("entrypoint", ["pipeline.flow.distill_flow", ENTRYPOINT])
def test_a_flow_that_prefect_loads_leaves_the_folders_of_modules_as_they_were(entrypoint: str) -> None:
    """Processes that a run starts search the same folders: in that of `pipeline` they would find other modules."""
    from prefect.flows import load_flow_from_entrypoint

    before = list(sys.path)
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert flow.name in ("distill-flow", "distill-stage")
    assert sys.path == before
