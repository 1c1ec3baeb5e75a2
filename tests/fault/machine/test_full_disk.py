"""A disk that becomes full or read-only during a run: one message, exit code 1, and the same weights after a resume.

The full disk is a separate file system in memory, so that every writer meets it: this project, torch, Arrow.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.store.checkpoints import CheckpointStore, FolderWriter, open_store
from pipeline.store.states import FolderStates
from pipeline.tracking.run_files import Outbox, PointFile
from schemas.results.manifest import RunReport
from stages.data.readers import files as data_files
from tests.support.command_line import Distill, ToyRun
from tests.support.processes import forked
from tests.support.toys import toy_recipe_dict
from tests.torture.kills import visible, weights

MEGABYTES = 260
# In the order of a run.
WRITES: dict[str, tuple[Any, str]] = {
    "rows of a file": (data_files, "make_whole"),
    "a point": (PointFile, "append"),
    "a state": (FolderStates, "save"),
    "a checkpoint": (FolderWriter, "commit"),
    "a judgement": (CheckpointStore, "write_judgement"),
    "what MLflow does not take": (Outbox, "keep"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(path))
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system in memory needs more privileges")
    yield path
    subprocess.run(("umount", "--lazy", str(path)), check=True, timeout=20)


@contextmanager
def before(write: str, harm: Callable[[], object]) -> Iterator[list[str]]:
    """Run `harm` before every call of `write`; yield the list of these calls."""
    module, name = WRITES[write]
    whole = getattr(module, name)
    happened: list[str] = []

    def harmed(*arguments: Any, **more: Any) -> Any:
        happened.append(write)
        harm()
        return whole(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, harmed)
        yield happened


def fill(folder: Path) -> None:
    free = os.statvfs(folder)
    if free.f_bavail:
        with (folder / "filler").open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), free.f_bavail * free.f_frsize)


def refuse_to_write() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def mlflow_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make MLflow unavailable, so that pending data is also written to the full disk."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    content = toy_recipe_dict(folder / "in", steps=40)
    content["teacher"]["task_model"]["training"]["duration"] = "40 steps"
    content["teacher"]["minimum_gain"] = 0
    content["stages"] = [content["stages"][3]]
    content["execution"] |= {"state_minutes": 0.0001, "log_every": 10}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def expected(recipe: Path, prefect: str) -> dict[str, str]:
    from pipeline.flow import RunOptions, distill_flow

    store = recipe.parent / "whole"
    distill_flow(recipe=str(recipe), options=RunOptions(store=str(store)))
    return weights(store)


def harm_every_write(
    run: Callable[[], tuple[int, str, str]],
    store: Path,
    harm: Callable[[], object],
    mend: Callable[[], object],
    message: str,
    writes: Collection[str] = WRITES.keys(),
) -> None:
    """Run repeatedly with a failure before a different write each time, and resume each time."""
    for write in writes:
        times = {path: path.stat().st_mtime_ns for path in visible(store)}
        with before(write, harm) as happened:
            code, _, err = run()
        mend()
        assert happened, f"{write} never happened"
        assert code == 1, f"{write}: {err}"
        assert "Traceback" not in err
        assert err.count("error:") == 1, err
        assert message in " ".join(err.split()), f"{write}: {err}"
        assert "--store" in err
        left = {path: path.stat().st_mtime_ns for path in visible(store)}
        assert left.items() >= times.items(), write
    code, _, err = run()
    assert code == 0, err


@pytest.mark.slow
def test_a_full_disk_loses_nothing_and_the_run_resumes_once_there_is_space(
    disk: Path, recipe: Path, expected: dict[str, str], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = disk / "store"
    mlflow_is_away(monkeypatch)
    harm_every_write(
        lambda: distill("run", recipe, "--store", store),
        store,
        lambda: fill(disk),
        (disk / "filler").unlink,
        "the disk is full; make room there",
    )
    assert weights(store) == expected


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_loses_nothing(
    tmp_path: Path, recipe: Path, expected: dict[str, str], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    mlflow_is_away(monkeypatch)
    harm_every_write(
        lambda: distill("run", recipe, "--store", store),
        store,
        refuse_to_write,
        lambda: None,
        "it is read-only",
        ("a state",),
    )
    assert weights(store) == expected


def test_a_read_only_disk_is_refused_before_a_run_and_can_be_inspected(
    disk: Path, recipe: Path, distill: Distill
) -> None:
    open_store(disk / "store").write_report(
        RunReport(run="a", recipe="toy", task=None, rows=(), seconds=1.0, store="elsewhere")
    )
    subprocess.run(("mount", "-o", "remount,ro", str(disk)), check=True, timeout=20)
    message = distill.refused("run", recipe, "--store", disk / "store", code=1)
    assert "it is read-only" in message
    assert message.count("error:") == 1
    for words in (("compare",), ("gc",), ("sync",), ("plan", recipe)):
        code, _, err = distill(*words, "--store", disk / "store")
        assert code == 0, err


@pytest.mark.slow
def test_a_full_disk_of_prefects_server_is_named_with_its_exception(disk: Path, recipe: Path, tmp_path: Path) -> None:
    fill(disk)
    env = {"PREFECT_HOME": str(disk / "prefect"), "TMPDIR": str(tmp_path)}
    with forked("run", recipe, "--store", tmp_path / "store", env=env) as run:
        assert run.wait(280) == 1, run.output
    assert run.output.count("error:") == 1
    assert f"check that PREFECT_HOME (now {disk}/prefect) is a writable folder with free space" in run.output
    assert "sqlite3.OperationalError) database or disk is full" in run.output
    assert "Traceback" not in run.output


def test_an_export_without_room_leaves_nothing(disk: Path, toy_run: ToyRun, distill: Distill) -> None:
    fill(disk)
    message = distill.refused(
        "export", toy_run.report.run, "--to", disk / "student", "--onnx", "--store", toy_run.store, code=1
    )
    assert f"cannot write to {disk}" in message
    assert "the disk is full" in message
    assert [path.name for path in disk.iterdir()] == ["filler"]
