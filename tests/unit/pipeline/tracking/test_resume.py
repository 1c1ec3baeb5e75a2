"""Run ids resolve to checkpoints: in this store, in a moved store, and on another machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.process.settings import Settings, read_settings
from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.tracking.artifacts import is_stored, log_checkpoint, resolve_run
from pipeline.tracking.client import follow_store, was_moved
from pipeline.tracking.server import sync
from pipeline.tracking.session import Tracking
from schemas.core.errors import CheckpointError
from schemas.results.manifest import CheckpointRef
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.processes import free_port

TAGS = {"distill.stage": "teacher", "distill.digest": DIGEST}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return open_store(tmp_path / "made here")


def committed(store: CheckpointStore) -> CheckpointRef:
    return store.writer("teacher", DIGEST).commit(manifest_of(), write_model)


def run_with(tracking: Tracking, checkpoint: CheckpointRef, *, stored: bool = False) -> str:
    run = tracking.start_run("teacher", {}, {**TAGS, "distill.checkpoint": checkpoint.path})
    if stored:
        log_checkpoint(Path(checkpoint.path), run)
    run.finish()
    return str(run.run_id)


def test_a_run_resolves_to_its_checkpoint_in_the_current_or_the_original_store(
    opened: Tracking, database: str, store: CheckpointStore, tmp_path: Path
) -> None:
    checkpoint = committed(store)
    run_id = run_with(opened, checkpoint)
    assert resolve_run(run_id, uri=database, store=store) == Path(checkpoint.path)
    other_store = CheckpointStore(tmp_path / "another")
    assert resolve_run(run_id, uri=database, store=other_store) == Path(checkpoint.path)
    moved = tmp_path / "moved"
    store.root.rename(moved)
    resolved = resolve_run(run_id, uri=database, store=CheckpointStore(moved))
    assert resolved == moved / "checkpoints" / Path(checkpoint.path).name
    assert not other_store.root.exists()


def test_a_run_resolves_to_its_checkpoint_next_to_the_database_of_another_store(
    store: CheckpointStore, tmp_path: Path, database: str
) -> None:
    address = f"sqlite:///{store.root}/mlflow.db"
    _copy_of(database, store.root / "mlflow.db")
    tracking = Tracking(address, tmp_path.name, store.points, artifacts=store.root / "mlartifacts")
    assert tracking.is_of_store
    checkpoint = committed(store)
    run_id = run_with(tracking, checkpoint)
    tracking.close()
    moved = tmp_path / "moved"
    store.root.rename(moved)
    other_store = open_store(tmp_path / "other")
    resolved = resolve_run(run_id, uri=f"sqlite:///{moved}/mlflow.db", store=other_store)
    assert resolved == moved / "checkpoints" / Path(checkpoint.path).name


def test_a_checkpoint_is_downloaded_from_mlflow_into_the_store_of_another_machine(
    opened: Tracking, database: str, store: CheckpointStore, tmp_path: Path
) -> None:
    assert not opened.is_of_store
    checkpoint = committed(store)
    run_id = run_with(opened, checkpoint, stored=True)
    manifest = manifest_of(mlflow_run_id=run_id)
    assert is_stored(opened, manifest, "checkpoint")
    assert not is_stored(opened, manifest, "model")
    reused = run_with(opened, checkpoint)  # by another run, which stored nothing
    shutil.rmtree(store.root)
    for run in (run_id, reused):
        other_store = open_store(tmp_path / f"other {run}")
        resolved = resolve_run(run, uri=database, store=other_store)
        assert resolved == other_store.folder("teacher", DIGEST)
        assert verify(resolved).digest == DIGEST
        assert other_store.find("teacher", DIGEST) is not None
        assert [path.name for path in resolved.parent.iterdir()] == [resolved.name]


def test_a_damaged_local_checkpoint_is_replaced_by_the_copy_in_mlflow(
    opened: Tracking, database: str, store: CheckpointStore
) -> None:
    checkpoint = committed(store)
    run_id = run_with(opened, checkpoint, stored=True)
    (Path(checkpoint.path) / "model" / "config.json").write_text('{"changed": 1}')
    resolved = resolve_run(run_id, uri=database, store=store)
    assert resolved == Path(checkpoint.path)
    assert verify(resolved).digest == DIGEST


def test_an_unresolvable_run_is_refused_with_the_reason(
    opened: Tracking, database: str, store: CheckpointStore, tmp_path: Path
) -> None:
    parent = opened.start_run("r", {}, {})
    with pytest.raises(CheckpointError, match="has no checkpoint; give the id of a stage's"):
        resolve_run(str(parent.run_id), uri=database, store=store)
    checkpoint = committed(store)
    run_id = run_with(opened, checkpoint)
    (Path(checkpoint.path) / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model/config.json is missing.*name the store"):
        resolve_run(run_id, uri=database, store=store)
    shutil.rmtree(checkpoint.path)
    with pytest.raises(CheckpointError, match=r"it was made in .*none of its stage is in the store"):
        resolve_run(run_id, uri=database, store=store)
    with pytest.raises(CheckpointError, match="knows no such run"):
        resolve_run("f" * 32, uri=database, store=store)
    away = f"http://me:s3cret@127.0.0.1:{free_port()}"
    with pytest.raises(CheckpointError, match="cannot be asked") as caught:
        resolve_run("f" * 32, uri=away, store=store)
    assert "s3cret" not in str(caught.value)


def _copy_of(database: str, path: Path) -> None:
    """Copy a database, because creating its tables takes seconds."""
    source = Path(database.removeprefix("sqlite:///"))
    if not source.exists():
        from pipeline.tracking.client import make_database

        make_database(database)
    shutil.copyfile(source, path)


def artifacts(client: Any, run_id: str) -> set[str]:
    return {item.path for item in client.list_artifacts(run_id)}


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_moved_or_copied_store_keeps_mlflows_artifacts(
    how: str, store: CheckpointStore, tmp_path: Path, database: str
) -> None:
    from pipeline.tracking.client import load_mlflow

    _copy_of(database, store.root / "mlflow.db")
    settings = read_settings(store.root, {"DISTILL_EXPERIMENT": tmp_path.name})
    run_id = _run(settings, store, "before.txt")
    assert not was_moved(settings.tracking_uri, settings.artifacts)
    new_root = tmp_path / "it's here now, é"
    (store.root.rename if how == "moved" else _copied(store.root))(new_root)
    settings = read_settings(new_root, {"DISTILL_EXPERIMENT": tmp_path.name})
    assert was_moved(settings.tracking_uri, settings.artifacts)
    report = sync(settings, new_root / "points")
    assert report.failure is None
    assert not was_moved(settings.tracking_uri, settings.artifacts)
    client = load_mlflow().MlflowClient(tracking_uri=settings.tracking_uri)
    assert artifacts(client, run_id) == {"before.txt"}
    run = client.get_run(run_id)
    assert run.info.artifact_uri.startswith((new_root / "mlartifacts").as_uri())
    assert run.data.tags["distill.checkpoint"] == f"{new_root}/checkpoints/x"
    later = _run(settings, CheckpointStore(new_root), "after.txt")
    assert artifacts(client, later) == {"after.txt"}
    assert len(list((new_root / "mlartifacts").rglob("*.txt"))) == 2
    assert store.root.exists() == (how == "copied")


def test_a_linked_store_and_an_external_database_are_not_changed(
    store: CheckpointStore, tmp_path: Path, database: str
) -> None:
    _copy_of(database, store.root / "mlflow.db")
    settings = read_settings(store.root, {"DISTILL_EXPERIMENT": tmp_path.name})
    run_id = _run(settings, store, "a.txt")
    (tmp_path / "link").symlink_to(store.root)
    linked = read_settings(tmp_path / "link", {})
    assert not was_moved(linked.tracking_uri, linked.artifacts)
    assert not was_moved(settings.tracking_uri, tmp_path / "elsewhere" / "mlartifacts")
    follow_store(settings.tracking_uri, tmp_path / "elsewhere" / "mlartifacts")
    assert sync(settings, store.points).runs == ()
    assert run_id


def _copied(root: Path) -> Any:
    return lambda new_root: shutil.copytree(root, new_root)


def _run(settings: Settings, store: CheckpointStore, file: str) -> str:
    tracking = Tracking(settings.tracking_uri, settings.experiment, store.points, artifacts=settings.artifacts)
    run = tracking.start_run("x", {}, {"distill.checkpoint": f"{store.root}/checkpoints/x"})
    assert run.log_file("text", file)
    run.finish()
    tracking.close()
    return str(run.run_id)


def test_artifacts_refused_by_mlflow_are_not_reported_as_stored(
    opened: Tracking, store: CheckpointStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = committed(store)
    run = opened.start_run("teacher", {}, TAGS)
    with monkeypatch.context() as patch:
        patch.setattr(run, "log_artifacts", lambda *_: False)
        log_checkpoint(Path(checkpoint.path), run)
    assert not is_stored(opened, manifest_of(mlflow_run_id=run.run_id), "checkpoint")
    log_checkpoint(Path(checkpoint.path), run)
    assert is_stored(opened, manifest_of(mlflow_run_id=run.run_id), "checkpoint")
    assert client.get_run(run.run_id).data.tags["distill.stored.checkpoint"] == "true"
    run.finish()
