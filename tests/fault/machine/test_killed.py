"""A killed or stopped run resumes and repeats no finished stage."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import yaml

from pipeline.flow import RunOptions, distill_flow
from pipeline.store.checkpoints import verify
from tests.support.processes import forked
from tests.support.toys import toy_recipe_dict

STEPS = 240


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    content = toy_recipe_dict(tmp_path / "in")
    content["stages"][2]["training"] = content["stages"][2]["training"] | {"duration": f"{STEPS} steps"}
    content["execution"]["state_minutes"] = 0.002
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_reuses_finished_stages_and_ends_with_the_same_weights(
    recipe: Path, tmp_path: Path, prefect: str
) -> None:
    env = {"PREFECT_API_URL": prefect}
    store, whole = tmp_path / "store", tmp_path / "whole"
    command = ("run", recipe, "--until", "task_adaptive", "--store", store)
    with forked(*command, env=env) as first:
        first.wait_for("task_adaptive: step 0")
        states = store / "states"
        end = time.monotonic() + 60
        while not list(states.glob("task_adaptive-*/step-*/manifest.json")):
            assert time.monotonic() < end, first.output
            time.sleep(0.01)
        first.send(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    assert not list((store / "checkpoints").glob("task_adaptive-*"))
    with forked(*command, env=env) as second:
        assert second.wait() == 0, second.output
    for stage in ("teacher", "general", "general_enhanced"):
        assert f"{stage}: found in the store, reused" in second.output
    assert "task_adaptive: continuing from step" in second.output
    options = RunOptions(store=str(whole), until_stage="task_adaptive")
    distill_flow(recipe=str(recipe), options=options)
    digests = []
    for finished_store in (store, whole):
        (folder,) = (finished_store / "checkpoints").glob("task_adaptive-*")
        manifest = verify(folder)
        assert manifest.steps == STEPS
        digests.append({name: entry.sha256 for name, entry in manifest.files.items() if name.endswith(".safetensors")})
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_keeps_its_state_and_prints_how_to_resume(
    recipe: Path, tmp_path: Path, prefect_home: Path, number: signal.Signals
) -> None:
    env = {"PREFECT_HOME": str(prefect_home)}
    store = tmp_path / "store"
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["stages"][0]["training"]["duration"] = "100000 steps"
    content["execution"]["state_minutes"] = 60
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    with forked("run", recipe, "--store", store, "--until", "general", env=env) as run:
        run.wait_for("general: step 0")
        time.sleep(1)
        asked = time.monotonic()
        run.send(number)
        assert run.wait(60) == 1, run.output
        assert time.monotonic() - asked < 20
    assert "Traceback" not in run.output
    assert "state kept" in run.output
    assert f"distill run {recipe}" in run.output
    assert list((store / "states").glob("general-*/step-*/manifest.json"))
