"""A stage on a real work pool, whatever happens to it: the run ends with the same bits as one that trains it itself.

A full Prefect server, process workers started as the pages say, and `distill run` in a process of its own.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.processes import Process, distill, free_port, running
from tests.support.toys import toy_recipe_dict
from tests.torture.kills import weights

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

STEPS, POOL = 800, "stages"
PREFECT = (sys.executable, "-m", "prefect")


@dataclass(frozen=True)
class Server:
    """A Prefect server, and what tests ask it."""

    address: str
    env: dict[str, str]

    def post(self, path: str, content: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self.address}{path}", json=content, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Flow runs of that name, the newest first."""
        content = {"flow_runs": {"name": {"like_": name}}, "sort": "EXPECTED_START_TIME_DESC"}
        return [run for run in self.post("/flow_runs/filter", content) if run["name"].startswith(name)]

    def set_state(self, run: dict[str, Any], kind: str, name: str | None = None, **details: object) -> None:
        state = {"type": kind, "name": name, "state_details": details}
        self.post(f"/flow_runs/{run['id']}/set_state", {"state": state})

    def worker(self, name: str) -> AbstractContextManager[Process]:
        """A worker of the pool."""
        command = (*PREFECT, "worker", "start", "--pool", POOL, "--name", name, "--limit", "1")
        return running(*command, env={**self.env, "PYTHONPATH": str(ROOT)})


@contextmanager
def server(home: Path) -> Iterator[Server]:
    port = free_port()
    env = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(home),
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        # The least that Prefect allows; a worker that died is noticed by it.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    with running(*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), env=env) as process:
        process.wait_for("Check out the dashboard")
        wait_until(lambda: answers(env["PREFECT_API_URL"]), "an answer")
        yield Server(env["PREFECT_API_URL"], env)


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=10).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def prefect_server(prefect_home: Path) -> Iterator[Server]:
    with server(prefect_home) as here:
        template = json.loads((ROOT / "docker" / "pools" / "process.json").read_text("utf-8"))
        here.post("/work_pools/", {"name": POOL, "type": "process", "base_job_template": template})
        yield here


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    content = toy_recipe_dict(tmp_path / "in", steps=STEPS)
    content["stages"] = content["stages"][:1]
    del content["task"], content["teacher"]["task_model"]
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


@pytest.fixture
def expected(recipe: Path, tmp_path: Path) -> dict[str, str]:
    """Weights of a run that trains everything itself."""
    with running(*distill("run", recipe, "--store", tmp_path / "plain")) as run:
        assert run.wait(600) == 0, run.output
    return weights(tmp_path / "plain")


def on_pool(recipe: Path, store: Path | str, *changes: str) -> tuple[str, ...]:
    settings = (f"execution.pools.general={POOL}", "execution.state_minutes=0.001", *changes)
    return distill("run", recipe, "--store", store, *(word for change in settings for word in ("--set", change)))


def steps(store: Path) -> int:
    """Step of the newest state in a store, or in a folder of local copies."""
    return max((int(path.name.removeprefix("step-")) for path in store.rglob("states/*/step-*")), default=0)


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what} not within {seconds} s"
        time.sleep(0.1)


def engines(worker: Process) -> list[psutil.Process]:
    """Processes of the stage that a worker has started."""
    return psutil.Process(worker.process.pid).children(recursive=True)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)


def test_a_stage_is_cancelled_moved_and_killed_and_ends_with_the_same_bits(
    prefect_server: Server, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with prefect_server.worker("first") as first:
        first.wait_for("started!")
        with running(*on_pool(recipe, store), env=prefect_server.env) as run:
            wait_until(lambda: steps(store) > 50, "training", 600)
            prefect_server.set_state(prefect_server.runs("toy")[0], "CANCELLING")
            assert run.wait(120) == 1, run.output
            assert "training on stages" in run.output
            assert "on work pool stages was " in run.output.split("error:")[1], run.output
        wait_until(lambda: not engines(first), "the stage's process has ended", 60)
        (child,) = prefect_server.runs("general")
        assert (child["state_name"], prefect_server.runs("toy")[0]["state_name"]) == ("Cancelled", "Cancelled")
        assert child["state"]["message"].startswith(f"stopped at step {steps(store)} of {STEPS} of general; state kept")
        assert child["parent_task_run_id"] is not None
        cancelled = steps(store)

        with running(*on_pool(recipe, store), env=prefect_server.env) as run:
            wait_until(lambda: steps(store) > cancelled + 50, "going on", 600)
            for process in engines(first):  # as on a machine that is taken away
                process.terminate()
            wait_until(lambda: prefect_server.runs("general")[0]["state_type"] == "CRASHED", "noticing", 120)
            first.send(signal.SIGTERM)
            moved = steps(store)
            with prefect_server.worker("second") as second:
                wait_until(lambda: steps(store) > moved + 50, "going on elsewhere", 600)
                kill(engines(second))
                assert run.wait(600) == 0, run.output + second.output
            assert f"general: continuing from step {moved} of" in second.output
    assert weights(store) == expected
    runs = prefect_server.runs("general")
    assert [one["state_name"] for one in runs] == ["Completed", "Crashed", "Crashed", "Cancelled"]
    assert [one["parameters"]["stage"]["work"]["config"]["name"] for one in runs] == ["general"] * 4


def test_a_stage_is_suspended_and_lost_with_its_worker_and_ends_with_the_same_bits(
    prefect_server: Server, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with running(*on_pool(recipe, store, "execution.pool_minutes=1"), env=prefect_server.env) as run:
        with prefect_server.worker("first") as first:
            wait_until(lambda: steps(store) > 50, "training", 600)
            child = prefect_server.runs("general")[0]
            prefect_server.set_state(child, "PAUSED", "Suspended", pause_reschedule=True)
            wait_until(lambda: not engines(first), "the stage's process has ended", 120)
            suspended = steps(store)
            run.wait_for("general: suspended on stages; resume it on Prefect's page")
            prefect_server.post(f"/flow_runs/{child['id']}/resume", {})
            wait_until(lambda: steps(store) > suspended + 50, "resuming", 600)
            assert prefect_server.runs("general")[0]["id"] == child["id"]
            # As a machine that is gone: nobody tells Prefect.
            doomed = engines(first)
            first.send(signal.SIGKILL)
            kill(doomed)
            assert steps(store) < STEPS
        with prefect_server.worker("second"):
            assert run.wait(900) == 0, run.output
    assert weights(store) == expected
    assert "gave no sign of life for 1 minutes" in prefect_server.runs("general")[1]["state"]["message"]


def test_a_container_that_is_asked_to_end_saves_its_state_and_its_stage_goes_on_in_another(
    prefect_server: Server, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    address = f"file://{tmp_path / 'shared'}"
    template = json.loads((ROOT / "docker" / "pools" / "docker.json").read_text("utf-8"))
    variables = template["variables"]["properties"]["env"]["default"]

    def machine(name: str) -> dict[str, str]:
        """Environment of a container on a machine with a local copy of its own."""
        return {**prefect_server.env, **variables, "PYTHONPATH": str(ROOT), "DISTILL_CACHE": str(tmp_path / name)}

    execute = (*PREFECT, "flow-run", "execute")  # what the workers of Docker and Kubernetes start in a container
    with running(*on_pool(recipe, address), env=machine("run")) as run:
        wait_until(lambda: prefect_server.runs("general"), "asking")
        child = prefect_server.runs("general")[0]
        with running(*execute, child["id"], env=machine("one")) as container:
            wait_until(lambda: steps(tmp_path / "one") > 50, "training", 600)
            container.send(signal.SIGTERM)
            assert container.wait(120) == 0, container.output
            assert "the state is being saved" in container.output
        again = prefect_server.runs("general")[0]
        assert (again["id"], again["state_name"]) == (child["id"], "AwaitingRetry")
        saved = steps(tmp_path / "one")
        with running(*execute, child["id"], env=machine("two")) as container:
            assert run.wait(600) == 0, run.output
            assert container.wait(60) == 0, container.output
        assert f"general: continuing from step {saved} of" in container.output
    (copy,) = (tmp_path / "run").iterdir()
    assert weights(copy) == expected
    assert not [path for path in (tmp_path / "shared" / "states").rglob("*") if path.is_file()]
