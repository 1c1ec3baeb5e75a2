"""Seeds and several recipes in one call: one table, shared stages made once, a failing run beside finished ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pipeline.api import read_run
from pipeline.runs.listing import list_runs
from pipeline.store.checkpoints import open_store
from schemas.results.report import GroupReport
from tests.support.command_line import Distill, ToyRun


@pytest.fixture(scope="module")
def call(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The toy recipe with two seeds, and with a teacher that is never good enough, in a copy of the toy run's store."""
    folder = tmp_path_factory.mktemp("many")
    toy = yaml.safe_load(toy_run.recipe.read_text("utf-8")) | {"seeds": [0, 1]}
    strict = toy | {"name": "strict", "seeds": [0], "teacher": toy["teacher"] | {"minimum_gain": 0.999}}
    for content in (toy, strict):
        (folder / f"{content['name']}.yaml").write_text(yaml.safe_dump(content), "utf-8")
    shutil.copytree(toy_run.store, folder / "store")
    return [str(folder / "toy.yaml"), str(folder / "strict.yaml")], folder / "store"


def test_a_plan_counts_what_seeds_and_recipes_find_share_and_make(
    call: tuple[list[str], Path], distill: Distill
) -> None:
    recipes, store = call
    code, printed, _ = distill("plan", *recipes, "--store", store)
    assert code == 0
    # Seed 0 is that of the toy run, and no seed is the teacher's: five stages and the teacher of seed 1 are found.
    assert "4 stages to make, 6 found in the store, 0 shared" in printed
    assert "0 stages to make, 5 found in the store, 0 shared" in printed
    assert "2 recipes: 4 stages to make, 11 found in the store, 0 shared; left to run: about" in printed


def test_runs_share_what_they_can_and_one_table_shows_which_failed(
    call: tuple[list[str], Path], distill: Distill
) -> None:
    recipes, store = call
    code, printed, message = distill("run", *recipes, "--until", "general_enhanced", "--store", store)
    assert code == 1
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    report = read_run(store=store).report
    assert isinstance(report, GroupReport)
    assert list(report.tasks) == ["toy/seed0", "toy/seed1"]
    assert list(report.failed) == ["strict/seed0"]
    assert all("minimum_gain asks for 99.9 %" in reason for reason in report.failed.values())
    assert errors == [f"error: {name}: {reason}" for name, reason in report.failed.items()]
    rows = {name: [(row.name, row.status) for row in run.rows if row.checkpoint] for name, run in report.tasks.items()}
    assert rows["toy/seed0"] == [(name, "reused") for name in ("teacher", "general", "general_enhanced")]
    assert rows["toy/seed1"] == [("teacher", "reused"), ("general", "ran"), ("general_enhanced", "ran")]

    table = read_run(store=store).table
    student = next(row for row in table if row["model"] == "student")
    assert student["runs"] == "2"
    probes = sorted(100 * float(run.rows[-1].judgement.probed or 0) for run in report.tasks.values())
    assert [float(student[name]) for name in ("lowest", "highest")] == pytest.approx(probes, abs=0.05)
    assert table[-1]["model"] == "strict/seed0: failed"
    assert " ".join(student.values()) in " ".join(printed.split())


def test_mlflow_and_the_store_know_the_runs_of_a_call(call: tuple[list[str], Path]) -> None:
    _, store = call
    opened = open_store(store)
    group, *_ = (run for run in list_runs(opened) if run.name.startswith("group-"))
    toy, *_ = (run for run in list_runs(opened) if run.several == "2 seeds")
    assert (group.several, group.recipe, toy.recipe) == ("3 runs", "toy, strict", "toy")
    assert toy.score is None  # no head is trained yet
    report = opened.read_report(group.name)
    client = MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")
    experiment = [str(report.mlflow_experiment_id)]
    runs = client.search_runs(experiment, f"tags.`distill.group` = '{report.run}'")
    assert {run.data.tags["distill.recipe"] for run in runs} == {"toy", "strict"}
    seeds = client.search_runs(experiment, "tags.`distill.seed` LIKE '%'")
    assert {run.data.tags["mlflow.parentRunId"] for run in seeds} == {run.info.run_id for run in runs}
