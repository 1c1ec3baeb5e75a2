"""An object store that several machines share, each with a local copy: what one makes, the others find, whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import CheckpointStore, look_into_store, open_checkpoint, open_store, verify
from pipeline.store.garbage import find_garbage
from pipeline.store.remote import UNSENT, Remote
from schemas.core.errors import CheckpointError, ConfigError, StoreError
from schemas.results.manifest import CheckpointRef, Judgement, Row, RunReport
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.unit.pipeline.store.s3_server import Bucket, s3_server

pytest.importorskip("s3fs", reason="needs the extra `s3`")

ADDRESS = "s3://team/distill"
NAME = f"teacher-{DIGEST[:16]}"
SECRET = "a-secret-of-the-server"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server() as server:
        connect(server.address, monkeypatch)
        yield server


def connect(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let file systems that are made from now on go to this server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def machine(folder: Path, name: str, address: str | Path = ADDRESS) -> CheckpointStore:
    """The store as a machine of that name opens it for a run."""
    return open_store(read_settings(address, {"DISTILL_CACHE": str(folder / name)}).store)


def commit(store: CheckpointStore, weights: bytes = b"weights" * 1000) -> CheckpointRef:
    def write(folder: Path) -> None:
        write_model(folder)
        (folder / "model" / "model.safetensors").write_bytes(weights)

    return store.writer("teacher", DIGEST).commit(manifest_of(), write)


def report_of(reference: CheckpointRef, run: str, seconds: float = 1.0) -> RunReport:
    row = Row(name="teacher", kind="teacher", status="ran", judgement=Judgement(), checkpoint=reference)
    return RunReport(run=run, recipe="toy", task=None, rows=(row,), seconds=seconds, store="/somewhere")


def unsent(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in (store.root / UNSENT).iterdir())


def test_what_one_machine_makes_another_finds_by_its_digest(bucket: Bucket, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    made = commit(one)
    one.write_judgement("ab" * 32, Judgement(accuracy=0.5))
    for store, seconds in ((one, 1.0), (other, 2.0)):  # two machines, one second, one recipe
        store.write_report(report_of(made, "toy-20260101-000000", seconds))
    assert unsent(one) == unsent(other) == []
    found = other.find("teacher", DIGEST)
    assert found is not None
    assert found[0].path == str(other.folder("teacher", DIGEST)) != made.path
    assert verify(Path(found[0].path)) == verify(Path(made.path))
    judgement = other.read_judgement("ab" * 32)
    assert judgement is not None
    assert judgement.accuracy == 0.5
    bucket.requests.clear()
    assert other.find("teacher", DIGEST) == found
    assert other.read_judgement("ab" * 32) == judgement
    assert not bucket.requests
    late = look_into_store(read_settings(ADDRESS, {"DISTILL_CACHE": str(tmp_path / "late")}).store)
    assert len(late.list_reports()) == len(late.list_reports()) == 2
    row = late.read_report("toy-20260101-000000").rows[0]  # type: ignore[union-attr]
    assert row.checkpoint is not None
    assert open_checkpoint(row.checkpoint.path)[1].digest == DIGEST
    assert (late.root / "checkpoints" / NAME).is_dir()
    assert not [piece for piece in find_garbage(late, older_than=0).pieces if piece.path.startswith("checkpoints")]


def test_a_store_that_refuses_is_reported_before_any_work(bucket: Bucket, tmp_path: Path) -> None:
    bucket.answer = lambda method, _key: 403 if method == "PUT" else None
    with pytest.raises(StoreError, match=r"--store s3://team/distill cannot be used \(PermissionError: .*environment"):
        machine(tmp_path, "one")
    bucket.answer = lambda _method, _key: 403
    plan = look_into_store(read_settings(ADDRESS, {"DISTILL_CACHE": str(tmp_path / "one")}).store)
    assert plan.list_reports() == []
    with pytest.raises(StoreError, match="cannot be used"):
        look_into_store(plan.root).find("teacher", DIGEST)


def test_a_busy_store_is_asked_again_and_not_for_ever(bucket: Bucket, tmp_path: Path) -> None:
    store = machine(tmp_path, "one")
    bucket.answer = lambda _method, _key: 503 if len(bucket.requests) % 2 else None
    bucket.requests.clear()
    commit(store)
    assert unsent(store) == []
    bucket.answer = lambda _method, _key: 503
    bucket.requests.clear()
    with pytest.raises(StoreError, match="Service Unavailable"):
        machine(tmp_path, "other")
    assert 1 < len(bucket.requests) < 10


def test_an_object_cut_off_on_its_way_is_not_named_and_sent_again(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    bucket.stored = lambda key, content: content[: len(content) // 2] if "/objects/" in key else content
    commit(store)
    assert f"{ADDRESS} does not answer" in caplog.text
    assert other.find("teacher", DIGEST) is None
    bucket.stored = lambda _key, content: content
    assert unsent(machine(tmp_path, "one")) == []
    assert other.find("teacher", DIGEST) is not None


@pytest.mark.parametrize("harm", ["truncated", "other content", "missing"])
def test_a_damaged_object_is_named_and_never_used(harm: str, bucket: Bucket, tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    commit(one)
    key = max(bucket.objects, key=lambda key: len(bucket.objects[key]))
    content = bucket.objects.pop(key)
    if harm != "missing":
        bucket.objects[key] = content[:-1] if harm == "truncated" else content[:-1] + b"?"
    with pytest.raises(
        CheckpointError, match=rf"{ADDRESS}/checkpoints/{NAME} is damaged \(objects/.*delete that object"
    ):
        other.find("teacher", DIGEST)
    assert not list((other.root / "checkpoints").iterdir())
    # After the advice the stage is made again, and everybody has it.
    del bucket.objects[f"team/distill/checkpoints/{NAME}"]
    assert other.find("teacher", DIGEST) is None
    commit(other, b"made again" * 1000)
    assert machine(tmp_path, "third").find("teacher", DIGEST) is not None


def test_a_manifest_cut_off_counts_as_none_and_is_replaced(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    commit(one)
    key = f"team/distill/checkpoints/{NAME}"
    bucket.objects[key] = bucket.objects[key][:-20]
    assert other.find("teacher", DIGEST) is None
    assert "not written to its end" in caplog.text
    commit(other)
    assert machine(tmp_path, "third").find("teacher", DIGEST) is not None


@pytest.mark.parametrize("keeps_conditions", [True, False])
def test_two_writers_of_one_digest_leave_one_whole_checkpoint(
    keeps_conditions: bool, bucket: Bucket, tmp_path: Path
) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    bucket.keeps_conditions = keeps_conditions

    def interrupted(method: str, key: str) -> None:
        """Let the other machine finish between the files and the manifest of the first."""
        if method == "PUT" and "/checkpoints/" in key:
            bucket.answer = lambda _method, _key: None
            commit(other, b"of the other" * 1000)

    bucket.answer = interrupted
    commit(one, b"of the first" * 1000)
    assert unsent(one) == unsent(other) == []
    third = machine(tmp_path, "third").find("teacher", DIGEST)
    assert third is not None
    weights = (verify(Path(third[0].path)), (Path(third[0].path) / "model" / "model.safetensors").read_bytes())
    assert weights[1] == (b"of the other" if keeps_conditions else b"of the first") * 1000


def test_a_process_killed_between_files_and_manifest_leaves_no_checkpoint_and_the_next_run_sends_it(
    tmp_path: Path,
) -> None:
    address = f"file://{tmp_path}/shared"
    if (child := os.fork()) == 0:
        store = machine(tmp_path, "one", address)
        Remote._write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        commit(store)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    other = machine(tmp_path, "other", address)
    assert len(list((tmp_path / "shared" / "objects").iterdir())) == 3
    assert other.find("teacher", DIGEST) is None
    one = machine(tmp_path, "one", address)
    assert unsent(one) == []
    assert other.find("teacher", DIGEST) is not None


def test_a_run_goes_on_without_its_network_and_the_next_one_sends_what_is_missing(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path, "one")
    connect("http://127.0.0.1:9", monkeypatch)
    del store.remote._files  # type: ignore[union-attr]
    assert store.find("teacher", DIGEST) is None
    made = commit(store)
    store.write_judgement("ab" * 32, Judgement(accuracy=0.5))
    assert store.find("teacher", DIGEST) is not None
    assert caplog.text.count("does not answer") == 1
    assert verify(Path(made.path))
    assert unsent(store) == [f"checkpoints--{NAME}", f"evaluations--{'ab' * 32}"]
    old = [piece.path for piece in find_garbage(store, older_than=0).pieces]
    assert f"checkpoints/{NAME}" not in old
    connect(bucket.address, monkeypatch)
    assert unsent(machine(tmp_path, "one")) == []
    assert machine(tmp_path, "other").find("teacher", DIGEST) is not None


def test_an_address_is_read_as_typed_and_with_credentials_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"DISTILL_CACHE": str(tmp_path)}
    copies = {read_settings(text, here).store for text in (ADDRESS, Path(ADDRESS), f"{ADDRESS}/")}
    assert len(copies) == 1
    assert (copies.pop() / "remote.txt").read_text() == f"{ADDRESS}\n"
    with pytest.raises(ConfigError, match="user name, password or token") as error:
        read_settings(f"s3://key:{SECRET}@team/distill", here)
    assert SECRET not in str(error.value)
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"pip install 'distill-flow\[gcs\]'"):
        machine(tmp_path, "one", "gs://team/distill")
