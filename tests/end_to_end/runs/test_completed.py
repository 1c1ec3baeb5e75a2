"""A run that ended after a stage's last commit is completed when the stage is reused."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.evaluate import evaluate_checkpoint
from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.store.garbage import find_garbage, remove_garbage
from pipeline.tracking.artifacts import STORED_TAG, resolve_run
from pipeline.tracking.client import load_mlflow
from pipeline.tracking.server import sync
from schemas.core.errors import StoreError
from schemas.recipe.recipe import Recipe
from stages.ports.plain import SilentProgress
from stages.ports.protocols import TrainingState
from stages.storage.sealed_folder import MANIFEST
from tests.end_to_end.runs.by_hand import RunByHand, run
from tests.support.manifests import manifest_of, write_model
from tests.support.toys import toy_recipe_dict


def recipe_of(folder: Path) -> Recipe:
    """A recipe of a teacher and the last stage."""
    content = toy_recipe_dict(folder, steps=2)
    content["stages"] = content["stages"][3:]
    content["teacher"]["task_model"]["training"]["duration"] = "60 steps"
    content["teacher"]["minimum_gain"] = 0  # so few steps may teach it nothing
    content["baselines"] = []
    del content["general_corpus"]
    content["execution"] = {"log_every": 50}
    return Recipe.model_validate(content)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that was killed after the last commit, before the last stage was reported."""
    folder = tmp_path_factory.mktemp("killed")
    if (child := os.fork()) == 0:
        import pipeline.execution.stage_runner

        def kill(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        pipeline.execution.stage_runner.log_student = kill
        run(recipe_of(folder), open_store(folder / "store"))
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    return folder


def runs_of(store: CheckpointStore) -> list[Any]:
    with warnings.catch_warnings():  # MLflow and SQLAlchemy disagree about deprecations
        warnings.simplefilter("ignore")
        client = load_mlflow().MlflowClient(tracking_uri=f"sqlite:///{store.root}/mlflow.db")
        experiment = client.get_experiment_by_name("toys")
        return list(client.search_runs([experiment.experiment_id]))


def artifacts(store: CheckpointStore, run_id: str) -> set[str]:
    client = load_mlflow().MlflowClient(tracking_uri=f"sqlite:///{store.root}/mlflow.db")
    return {item.path for item in client.list_artifacts(run_id)}


def models(store: CheckpointStore, run_id: str) -> list[Any]:
    """The models that MLflow shows among the run's outputs."""
    client = load_mlflow().MlflowClient(tracking_uri=f"sqlite:///{store.root}/mlflow.db")
    outputs = client.get_run(run_id).outputs
    return [client.get_logged_model(output.model_id) for output in outputs.model_outputs] if outputs else []


def rows(done: RunByHand) -> list[str]:
    return [row.name for row in done.runner.judge.rows]


def test_a_run_killed_after_the_last_commit_is_completed_when_the_stage_is_reused(first: Path) -> None:
    store = open_store(first / "store")
    (killed,) = [run for run in runs_of(store) if run.data.tags.get("distill.stage") == "task_specific"]
    assert models(store, killed.info.run_id) == []
    done = run(recipe_of(first), store)
    assert rows(done) == ["teacher", "task_specific"]
    assert [row.status for row in done.runner.judge.rows] == ["reused", "reused"]
    assert done.runner.judge.rows[-1].mlflow_run_id == killed.info.run_id
    (student,) = models(store, killed.info.run_id)
    assert (student.name, student.status, student.source_run_id) == ("task_specific", "READY", killed.info.run_id)
    sync(read_settings(store.root, {}), store.points)
    by_id = {run.info.run_id: run for run in runs_of(store)}
    completed = by_id[killed.info.run_id]
    assert completed.info.status == "FINISHED"
    assert completed.data.tags[f"{STORED_TAG}model"] == "true"
    assert completed.data.tags["mlflow.parentRunId"] == done.runner.run.run_id
    assert by_id[killed.data.tags["mlflow.parentRunId"]].info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in by_id.values()}
    again = run(recipe_of(first), store)
    assert again.runner.judge.rows[-1].mlflow_run_id != killed.info.run_id
    assert models(store, str(again.runner.judge.rows[-1].mlflow_run_id)) == []


def test_a_failure_after_the_commit_leaves_one_row_and_no_temporary_folder_is_needed(
    first: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline.tracking import artifacts as tracked_artifacts

    store = open_store(tmp_path / "store")
    recipe, whole = recipe_of(first), tracked_artifacts.save_mlflow_model
    refused = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store.points / "x"))]

    def save(*arguments: Any) -> None:
        if refused:
            raise refused.pop()
        whole(*arguments)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")

    monkeypatch.setattr(tracked_artifacts, "save_mlflow_model", save)
    with pytest.raises(StoreError, match="the disk is full"):
        run(recipe, store)
    for name in ("mkdtemp", "mkstemp"):
        monkeypatch.setattr(tempfile, name, full)
    done = run(recipe, store)
    (child,) = [run for run in runs_of(store) if run.data.tags.get("distill.stage") == "task_specific"]
    assert child.info.status == "FINISHED"
    assert rows(done) == ["teacher", "task_specific"]
    names = artifacts(store, child.info.run_id)
    assert {"config.json", "manifest.json", "curves.png"} <= names
    assert [model.status for model in models(store, child.info.run_id)] == ["READY"]


@dataclass
class Collecting(SilentProgress):
    """Collects garbage at the start and at every step of a stage."""

    store: CheckpointStore | None = None
    gone: list[str] = field(default_factory=list)

    def start(self, description: str, total: int, done: int = 0) -> None:
        super().start(description, total, done)
        self.collect()

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        super().advance(done, metrics)
        if done % 20 == 0:
            self.collect()

    def collect(self) -> None:
        assert self.store is not None
        removed = remove_garbage(self.store, find_garbage(self.store, older_than=0.0))
        self.gone += [piece.path for piece in removed.pieces]


def test_gc_during_a_run_removes_nothing_that_the_run_needs(first: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    left = store.writer("teacher", "ef" * 32).commit(manifest_of("ef" * 32), write_model)
    watched = Collecting(store=store)
    done = run(recipe_of(first), store, watched)
    assert watched.gone == [f"checkpoints/{Path(left.path).name}"]
    for row in done.runner.judge.rows:
        assert row.checkpoint is not None
        assert row.status == "ran"
        verify(Path(row.checkpoint.path))


def test_a_moved_store_can_be_resumed_evaluated_and_found_by_run_id(first: Path, tmp_path: Path) -> None:
    run(recipe_of(first), open_store(first / "store"))
    state = TrainingState(7, {"weight": torch.ones(2)}, {"tokens": 3.0})
    open_store(first / "store").states("general", "ab" * 32).save(state)
    moved = CheckpointStore(tmp_path / "moved")
    shutil.copytree(first / "store", moved.root)
    away = first / "store is away"
    (first / "store").rename(away)
    try:
        done = run(recipe_of(first), open_store(moved.root))
        assert [row.status for row in done.runner.judge.rows] == ["reused", "reused"]
        latest = moved.states("general", "ab" * 32).latest()
        assert latest is not None
        assert latest.step == 7
        checkpoint = done.runner.judge.rows[-1].checkpoint
        assert checkpoint is not None
        scores = evaluate_checkpoint(Path(checkpoint.path), str(first / "task"), moved.root)
        assert [model.name for model in scores.models] == ["task_specific", "teacher"]
        for tracked in runs_of(moved):
            assert tracked.info.artifact_uri.startswith(moved.root.as_uri())
            if tracked.data.tags.get("distill.stage") == "task_specific":
                uri = f"sqlite:///{moved.root}/mlflow.db"
                resolved = resolve_run(tracked.info.run_id, uri=uri, store=moved)
                assert resolved == Path(checkpoint.path)
    finally:
        away.rename(first / "store")


def test_another_machine_finds_a_run_in_an_object_store_and_trains_nothing(first: Path, tmp_path: Path) -> None:
    def machine(name: str) -> CheckpointStore:
        variables = {"DISTILL_CACHE": str(tmp_path / name)}
        return open_store(read_settings(f"file://{tmp_path}/shared", variables).store)

    one, other = machine("one"), machine("other")
    made, found = run(recipe_of(first), one), run(recipe_of(first), other)
    assert [row.status for row in made.runner.judge.rows] == ["ran", "ran"]
    assert [row.status for row in found.runner.judge.rows] == ["reused", "reused"]
    assert [row.judgement for row in found.runner.judge.rows] == [row.judgement for row in made.runner.judge.rows]
    for row in found.runner.judge.rows:
        assert row.checkpoint is not None
        assert str(one.root) not in (Path(row.checkpoint.path) / MANIFEST).read_text(encoding="utf-8")
    assert {path.name for path in (one.root / "evaluations").iterdir()} == {
        path.name for path in (other.root / "evaluations").iterdir()
    }
