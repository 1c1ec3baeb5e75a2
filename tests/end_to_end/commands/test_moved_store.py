"""A store that was moved or copied is the same store: nothing in it leads back to where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.checkpoints import open_store
from stages.storage.sealed_folder import MANIFEST
from tests.support.command_line import Distill, ToyRun


@pytest.fixture
def moved(toy_run: ToyRun, tmp_path: Path) -> Iterator[Path]:
    """A copy of the toy run's store while the store itself is away."""
    copy, away = tmp_path / "moved", toy_run.store.with_name("away")
    shutil.copytree(toy_run.store, copy)
    toy_run.store.rename(away)
    yield copy
    away.rename(toy_run.store)


def test_no_manifest_names_a_folder_of_the_store(toy_run: ToyRun) -> None:
    manifests = set(toy_run.store.glob(f"checkpoints/*/{MANIFEST}"))  # other tests of the session may have added stages
    of_the_run = {Path(row.checkpoint.path) / MANIFEST for row in toy_run.report.rows if row.checkpoint}
    assert len(of_the_run) == 6
    assert of_the_run <= manifests
    for manifest in manifests:
        text = manifest.read_text(encoding="utf-8")
        assert str(toy_run.store) not in text, manifest
        if (teacher := json.loads(text)["config"]["teacher"]) and teacher["kind"] == "fine_tuned":
            assert teacher["model"] == {"kind": "stage", "stage": "teacher"}
            assert (toy_run.store / "checkpoints" / f"teacher-{teacher['stage_digest'][:16]}").is_dir()


def test_a_moved_store_answers_every_command_by_digest(
    toy_run: ToyRun, moved: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow remembers in a process where the artifacts of a run are, and this process knows the other store.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    name = toy_run.report.run
    report = open_store(moved).read_report(name)
    assert report.store == str(moved)
    code, out, err = distill("compare", name, "--store", moved)
    assert code == 0, err
    assert "checkpoint:" in " ".join((out + err).split())
    assert str(toy_run.store) not in (out + err).replace("\n", "")
    code, out, err = distill("predict", name, "the film is good", "--store", moved, "--precision", "torch")
    assert code == 0, err
    assert json.loads(out)["text"] == "the film is good"
    page = moved.parent / "page.html"
    code, _, err = distill("report", name, "--to", page, "--quick", "--store", moved)
    assert code == 0, err
    assert page.is_file()
    code, _, err = distill("plan", toy_run.recipe, "--store", moved)
    assert code == 0, err
