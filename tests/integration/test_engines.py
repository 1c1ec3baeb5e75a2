"""Seeds in processes of their own and on a Ray cluster, one of them killed: the students of a run in one process."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.api import read_run
from schemas.results.report import GroupReport
from tests.support.processes import Process, distill, running
from tests.support.toys import toy_recipe_dict

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
SETTINGS = ("--set", "seeds=[0, 1]", "--until", "general")
ENGINES = {
    "threads": ("execution.engine.at_once=2", ("pipeline.member",)),
    "ray": ("execution.engine.kind=ray", ("ray::member",)),
}
"""Setting of each engine, and words in the command lines of its members."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    content = toy_recipe_dict(folder / "in", steps=400)
    content["execution"] = {"log_every": 1, "state_minutes": 0.001}
    (folder / "toy.yaml").write_text(yaml.safe_dump(content), "utf-8")
    return folder / "toy.yaml"


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, prefect: str) -> GroupReport:
    """The run in one process, seed after seed."""
    return run(recipe, recipe.parent / "undisturbed", prefect, "execution.engine.at_once=1")


def run(recipe: Path, store: Path, prefect: str, setting: str, words: tuple[str, ...] = ()) -> GroupReport:
    """Run the recipe; with `words`, kill a member once it has a state."""
    command = distill("run", recipe, "--store", store, "--set", setting, *SETTINGS)
    with running(*command, env={"PREFECT_API_URL": prefect, "OMP_NUM_THREADS": "1"}) as process:
        if words:
            kill_a_member(process, store, words)
        assert process.wait(1500) == 0, process.output
    report = read_run(store=store).report
    assert isinstance(report, GroupReport)
    return report


def kill_a_member(process: Process, store: Path, words: tuple[str, ...]) -> None:
    """Kill one of the members that train, once there is a state to go on from."""
    deadline = time.monotonic() + 1200
    while not list(store.glob("states/general-*/step-*")):
        assert process.process.poll() is None, process.output
        assert time.monotonic() < deadline, process.output
        time.sleep(0.1)
    family = psutil.Process(process.process.pid).children(recursive=True)
    members = [child for child in family if any(word in " ".join(child.cmdline()) for word in words)]
    assert members, [child.cmdline() for child in family]
    members[0].kill()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_killed_member_ends_with_the_weights_of_a_run_in_one_process(
    recipe: Path, undisturbed: GroupReport, prefect: str, kind: str, tmp_path: Path
) -> None:
    if kind == "ray" and importlib.util.find_spec("prefect_ray") is None:
        pytest.skip("no prefect-ray; install the extra `ray`")
    report = run(recipe, tmp_path / "store", prefect, *ENGINES[kind])
    assert list(report.tasks) == list(undisturbed.tasks) == ["seed0", "seed1"]
    for label, expected in undisturbed.tasks.items():
        checkpoints = [part.rows[-1].checkpoint for part in (report.tasks[label], expected)]
        assert len({checkpoint.digest for checkpoint in checkpoints if checkpoint}) == 1
        weights = [load_file(Path(point.path) / "model" / "model.safetensors") for point in checkpoints if point]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
