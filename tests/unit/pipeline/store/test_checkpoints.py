"""The checkpoint store on a folder: lookups, commits, refusals and reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.command_line import app
from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint, open_store, store_for_look, verify
from schemas.core.credentials import without_credentials
from schemas.core.errors import CheckpointError, ConfigError, StoreError
from schemas.results.manifest import Judgement, RunReport
from stages.storage.sealed_folder import seal_of, sha256_of, temporary_name
from tests.support.manifests import DIGEST, manifest_of, write_model


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """A fresh store."""
    return open_store(tmp_path / "store")


def test_a_committed_checkpoint_is_found_with_every_file_measured(store: CheckpointStore) -> None:
    assert store.find("teacher", DIGEST) is None
    ref = store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    stored = store.find("teacher", DIGEST)
    assert stored is not None
    assert stored[0] == ref
    assert Path(ref.path) == store.root / "checkpoints" / f"teacher-{DIGEST[:16]}"
    assert sorted(stored[1].files) == ["model/config.json", "model/model.safetensors", "projections.safetensors"]
    assert stored[1].files["projections.safetensors"].size == 1000
    assert verify(Path(ref.path)) == stored[1]


def test_the_seal_can_be_checked_by_sha256sum(store: CheckpointStore) -> None:
    ref = store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    seal_text = (Path(ref.path) / "manifest.sha256").read_text()
    assert seal_text == f"{sha256_of(Path(ref.path) / 'manifest.json')}  manifest.json\n"


def test_a_folder_without_a_manifest_is_ignored_and_replaced(store: CheckpointStore) -> None:
    folder = store.folder("teacher", DIGEST)
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    assert store.find("teacher", DIGEST) is None
    store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    assert store.find("teacher", DIGEST) is not None
    (aside,) = (store.root / "checkpoints").glob(".damaged-*")
    assert (aside / "model.safetensors").read_text() == "half"


def test_a_truncated_file_is_named_with_both_sizes_and_the_remedy(store: CheckpointStore) -> None:
    ref = store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    (Path(ref.path) / "projections.safetensors").write_bytes(b"p" * 900)
    with pytest.raises(CheckpointError, match=r"projections.safetensors has 900 bytes, its manifest says 1,000 b") as e:
        store.find("teacher", DIGEST)
    assert "delete the folder to redo teacher" in str(e.value)


def test_a_checkpoint_under_another_stages_name_is_refused(store: CheckpointStore) -> None:
    ref = store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    digest = "cd" * 32
    shutil.copytree(ref.path, store.folder("teacher", digest))
    with pytest.raises(CheckpointError, match="not teacher of cdcdcdcdcdcdcdcd"):
        store.find("teacher", digest)


def test_the_first_of_two_writers_of_one_stage_wins(store: CheckpointStore) -> None:
    first = store.writer("teacher", DIGEST).commit(manifest_of(steps=10), write_model)
    second = store.writer("teacher", DIGEST).commit(manifest_of(steps=99), write_model)
    stored = store.find("teacher", DIGEST)
    assert stored is not None
    assert first == second
    assert stored[1].steps == 10
    assert [path.name for path in (store.root / "checkpoints").iterdir()] == [Path(first.path).name]


def test_concurrent_writers_leave_one_complete_checkpoint(store: CheckpointStore) -> None:
    threads = [
        threading.Thread(target=store.writer("teacher", DIGEST).commit, args=(manifest_of(), write_model))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (only,) = (store.root / "checkpoints").iterdir()
    assert verify(only).digest == DIGEST


def test_a_failed_write_leaves_no_files_and_raises_its_original_error(store: CheckpointStore) -> None:
    def fail(folder: Path) -> None:
        write_model(folder)
        raise KeyError("weights")

    with pytest.raises(KeyError):
        store.writer("teacher", DIGEST).commit(manifest_of(), fail)
    assert list((store.root / "checkpoints").iterdir()) == []


def test_verify_names_every_damaged_missing_and_extra_file(store: CheckpointStore) -> None:
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    (folder / "projections.safetensors").write_bytes(b"q" + b"p" * 999)
    (folder / "model" / "config.json").unlink()
    (folder / "model" / "pytorch_model.bin").write_text("never loaded")
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    for part in (
        "projections.safetensors has other content",
        "model/config.json is missing",
        "model/pytorch_model.bin is not in its manifest",
    ):
        assert part in str(caught.value)


def test_a_manifest_that_points_outside_its_folder_is_refused(store: CheckpointStore) -> None:
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["../../secret"] = content["files"]["model/config.json"]
    text = json.dumps(content).encode()
    (folder / "manifest.json").write_bytes(text)

    (folder / "manifest.sha256").write_text(seal_of(text))
    with pytest.raises(CheckpointError, match="points outside the folder"):
        verify(folder)


def test_a_checkpoint_opens_by_its_folder_or_its_model_folder(store: CheckpointStore, tmp_path: Path) -> None:
    ref = store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    moved = tmp_path / "elsewhere"
    shutil.copytree(ref.path, moved)
    for argument in (moved, moved / "model", str(moved)):
        assert open_checkpoint(argument)[0].path == str(moved)


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_an_invalid_checkpoint_path_is_refused_with_the_expected_one(tmp_path: Path, kind: str) -> None:
    location = tmp_path / "place"
    if kind == "file":
        location.write_text("x")
    if kind == "empty":
        location.mkdir()
    with pytest.raises(CheckpointError, match=r"expected the folder of a finished stage"):
        open_checkpoint(location)


def test_a_file_at_the_path_of_the_store_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for argument in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="is a file, not a folder"):
            open_store(argument)


def test_a_store_without_free_space_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=12_000_000))
    with pytest.raises(StoreError, match="12 MB free, and a run needs at least 200 MB"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize("words", [("compare",), ("gc",), ("gc", "--yes"), ("sync",)])
def test_read_only_commands_and_gc_work_without_free_space(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "store")
    store.write_report(report("a"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    result = CliRunner().invoke(app, [*words, "--store", str(store.root)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("words", [("compare",), ("gc",), ("sync",)])
def test_reading_a_store_writes_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.write_report(report("a"))
    (store.cache / "files").mkdir()
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    CliRunner().invoke(app, [*words, "--store", str(store.root)])
    CliRunner().invoke(app, [*words, "--store", str(tmp_path / "none")])
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_reading_data_uses_the_cache_or_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store_for_look(tmp_path / "store") as store:
        assert store.cache == tmp_path / "store" / "cache"
    for name, refused in (("access", False), ("disk_usage", None)):
        with monkeypatch.context() as patch:
            if refused is False:
                patch.setattr(os, name, lambda *_: False)
            else:
                usage = shutil.disk_usage(tmp_path)
                patch.setattr(shutil, name, lambda _, usage=usage: usage._replace(free=0))
            with store_for_look(tmp_path / "store") as store:
                location = store.cache
                assert location.is_dir()
                assert not location.is_relative_to(tmp_path / "store")
            assert not location.exists()


def test_judgements_are_reloaded_and_a_damaged_one_is_recomputed(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.read_judgement(DIGEST) is None
    store.write_judgement(DIGEST, Judgement(probe_accuracy=0.75))
    assert store.read_judgement(DIGEST) == Judgement(probe_accuracy=0.75)
    (store.root / "evaluations" / f"{DIGEST}.json").write_text('{"probe_acc')
    assert store.read_judgement(DIGEST) is None
    assert "evaluating again" in caplog.text


def test_a_changed_or_copied_judgement_is_not_used(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    location = store.root / "evaluations"
    store.write_judgement(DIGEST, Judgement(accuracy=0.75))
    text = (location / f"{DIGEST}.json").read_text()
    (location / f"{DIGEST}.json").write_text(text.replace("0.75", "0.95"))
    assert store.read_judgement(DIGEST) is None
    assert "has changed since it was written" in caplog.text
    digest = "cd" * 32
    (location / f"{digest}.json").write_text(text)
    assert store.read_judgement(digest) is None
    (location / f"{digest}.json").write_text(text.replace(DIGEST, digest))
    assert store.read_judgement(digest) is None


def test_an_unsealed_judgement_of_an_older_version_is_recomputed(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Judgement(accuracy=0.75).model_dump_json()
    (store.root / "evaluations" / f"{DIGEST}.json").write_text(plain)
    assert store.read_judgement(DIGEST) is None
    assert "has no seal; evaluating again" in caplog.text


def report(name: str) -> RunReport:
    """A minimal report."""
    return RunReport(run=name, recipe="tiny", task=None, rows=(), seconds=1.0, store="s")


def test_the_newest_report_is_read_unless_one_is_named(store: CheckpointStore) -> None:
    for second, name in enumerate(("b-old", "a-new")):
        assert store.write_report(report(name)).run == name
        os.utime(store.root / "runs" / f"{name}.json", (1_000_000 + second, 1_000_000 + second))
    assert store.list_reports() == ["a-new", "b-old"]
    assert store.read_report().run == "a-new"
    assert store.read_report("b-old").run == "b-old"
    with pytest.raises(ConfigError, match=r"the newest are a-new, b-old; all: distill runs"):
        store.read_report("c")


def test_a_changed_report_is_refused_and_an_unsealed_one_is_read(store: CheckpointStore) -> None:
    store.write_report(report("a"))
    path = store.root / "runs" / "a.json"
    assert subprocess.run(("sha256sum", "-c", "a.sha256"), cwd=path.parent, check=False).returncode == 0
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 9.0'))
    with pytest.raises(CheckpointError, match="is not as the run wrote it"):
        store.read_report("a")
    path.with_suffix(".sha256").unlink()
    assert store.read_report("a").seconds == 9.0


def test_report_names_that_leave_their_folder_are_refused(store: CheckpointStore) -> None:
    with pytest.raises(ConfigError):
        store.write_report(report("../x"))


def test_reading_a_report_of_an_empty_store_suggests_a_command(store: CheckpointStore) -> None:
    with pytest.raises(ConfigError, match="distill run"):
        store.read_report()


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_second_process_waits_until_the_process_of_the_stage(
    how: str, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.store.checkpoints import CheckpointStore\n"
        f"with CheckpointStore(Path({str(store.root)!r})).lock('teacher', {DIGEST!r}):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        started = time.monotonic()
        leave = process.kill if how == "is killed" else process.stdin.close
        threading.Timer(0.5, leave).start()
        with store.lock("teacher", DIGEST):
            assert time.monotonic() - started > 0.3
    assert "another process is making teacher" in caplog.text


def test_only_temporary_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    location = store.root / "checkpoints"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = temporary_name().split("-", 3)[3]
    names = {
        "dead_old": f".tmp-{dead.pid}-00000000-{here}",
        "dead_young": f".tmp-{dead.pid}-00000001-{here}",
        "alive_old": f".tmp-{os.getpid()}-00000002-{here}",
        "elsewhere": f".tmp-{dead.pid}-00000003-other-host.1",
    }
    for kind, name in names.items():
        (location / name).mkdir()
        if kind != "dead_young":
            os.utime(location / name, (time.time() - 3600,) * 2)
    open_store(tmp_path)
    assert {path.name for path in location.iterdir()} == set(names.values()) - {names["dead_old"]}


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("http://user:pw@example.com:5000/x", "http://example.com:5000/x"),
        ("http://user:p/w@example.com/x", "http://example.com/x"),
        ("postgresql+psycopg://u:p@w@127.0.0.1/db failed", "postgresql+psycopg://127.0.0.1/db failed"),
        ("https://token@example.com", "https://example.com"),
        ("http://127.0.0.1:5000/a", "http://127.0.0.1:5000/a"),
        ("https://example.com/x?api_key=s3cret&a=1", "https://example.com/x?api_key=***&a=1"),
        ("mail a@example.com", "mail a@example.com"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_credentials_are_removed_from_addresses(argument: str, right: str) -> None:
    assert without_credentials(argument) == right


def test_settings_default_to_the_store_and_follow_the_environment(tmp_path: Path) -> None:
    plain = read_settings(tmp_path, {})
    assert plain.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert (plain.artifacts, plain.experiment) == (tmp_path / "mlartifacts", "distill-flow")
    argument = read_settings(
        None,
        {"DISTILL_STORE": str(tmp_path / "s"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "DISTILL_EXPERIMENT": " "},
    )
    assert (argument.store, argument.artifacts) == (tmp_path / "s", None)
    assert argument.experiment == "distill-flow"
