"""Damage to the store by a disk, a kill or a user is detected or has no effect."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from schemas.core.errors import CheckpointError, DistillError, StoreError
from stages.ports.protocols import TrainingState
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.paths import ROOT

FILES = ("manifest.json", "manifest.sha256", "model/config.json", "model/model.safetensors", "projections.safetensors")


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Remove the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    """Empty the file, as a crash does on some file systems."""
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Replace the content by other content of the same length."""
    path.write_bytes(bytes(len(path.read_bytes())))


def replace_by_folder(path: Path) -> None:
    """Replace the file by a folder of the same name."""
    path.unlink()
    path.mkdir()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """A fresh store."""
    return open_store(tmp_path / "store")


def test_the_list_of_files_to_damage_is_complete(store: CheckpointStore) -> None:
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == set(FILES)


@pytest.mark.parametrize("harm", [flip, truncate, empty, swap, Path.unlink, replace_by_folder])
@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_any_file_is_detected(store: CheckpointStore, name: str, harm: Callable[[Path], None]) -> None:
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    harm(folder / name)
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    assert name in str(caught.value) or "manifest.json" in str(caught.value)
    # When the stage is run again, it replaces the damaged folder, which is moved aside.
    store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    assert verify(folder).digest == DIGEST


CHILD = """
import os, sys, time
from pathlib import Path
from pipeline.store.checkpoints import open_store
from tests.support.manifests import DIGEST, manifest_of, write_model
store = open_store(sys.argv[1])
def write(folder):
    write_model(folder)
    print("writing", flush=True)
    for part in range(10**9):
        with open(folder / "big.safetensors", "ab") as file:
            file.write(bytes(4096))
        if sys.argv[2] == "before":
            time.sleep(0.01)
        elif part == 200:
            break
def rename(*arguments):
    print("renaming", flush=True)
    time.sleep(60)
if sys.argv[2] == "rename":
    os.replace = rename
store.writer("teacher", DIGEST).commit(manifest_of(), write)
"""


@pytest.mark.parametrize(("moment", "output"), [("before", "writing"), ("rename", "renaming")])
def test_sigkill_during_a_commit_leaves_no_partial_checkpoint(tmp_path: Path, moment: str, output: str) -> None:
    store = open_store(tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store.root), moment],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        while output not in child.stdout.readline():
            assert child.poll() is None
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert store.find("teacher", DIGEST) is None
    (left,) = (store.root / "checkpoints").iterdir()
    assert left.name.startswith(f".tmp-{child.pid}-")
    os.utime(left, (time.time() - 3600,) * 2)
    store = open_store(store.root)
    assert list((store.root / "checkpoints").iterdir()) == []
    store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    assert store.find("teacher", DIGEST) is not None


@pytest.mark.parametrize(
    ("code", "output"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "it is read-only"), (errno.EACCES, "not yours to write")],
)
def test_a_failed_write_is_a_store_error_with_path_and_remedy(store: CheckpointStore, code: int, output: str) -> None:
    def write(folder: Path) -> None:
        write_model(folder)
        raise OSError(code, os.strerror(code), str(folder / "model"))

    with pytest.raises(StoreError, match=output) as caught:
        store.writer("teacher", DIGEST).commit(manifest_of(), write)
    assert str(store.root / "checkpoints") in str(caught.value)
    assert "--store" in str(caught.value)
    assert caught.value.exit_code == 1
    assert list((store.root / "checkpoints").iterdir()) == []


def test_a_file_size_limit_stops_commits_and_states_and_keeps_existing_files(store: CheckpointStore) -> None:
    states = store.states("teacher", DIGEST)
    states.save(TrainingState(step=1, tensors={"a": torch.zeros(10)}, numbers={}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"a": torch.zeros(100_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError, match="larger than allowed"):
            store.writer("teacher", DIGEST).commit(manifest_of(), lambda to: save_file(big, to / "m.safetensors"))
        with pytest.raises(StoreError, match="larger than allowed"):
            states.save(TrainingState(step=2, tensors=big, numbers={}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((store.root / "checkpoints").iterdir()) == []
    latest = states.latest()
    assert latest is not None
    assert latest.step == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="not yours to write"):
            open_store(tmp_path / "store")
    finally:
        tmp_path.chmod(0o700)


def test_a_path_where_no_folder_can_be_created_is_refused_before_any_work() -> None:
    # /proc refuses everybody, root too.
    with pytest.raises(DistillError, match="/proc/"):
        open_store("/proc/distill-store")


def test_a_failed_rename_removes_the_written_files(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StoreError, match="the disk reports errors"):
            store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
        with pytest.raises(StoreError):
            store.states("teacher", DIGEST).save(TrainingState(step=1, tensors={}, numbers={}))
    assert list((store.root / "checkpoints").iterdir()) == []
    assert store.states("teacher", DIGEST).latest() is None


def test_states_are_removed_when_their_checkpoint_is_committed(store: CheckpointStore) -> None:
    states = store.states("teacher", DIGEST)
    states.save(TrainingState(step=1, tensors={"a": torch.zeros(2)}, numbers={}))
    store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    assert not states.folder.exists()
