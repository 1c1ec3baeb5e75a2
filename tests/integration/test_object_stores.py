"""Stores in real servers for S3: the one of docker/compose.yaml, and one that does not know conditional writes.

Faults that no server does on demand are a proxy's before it. tests/unit/pipeline/store/test_remote.py has the same
questions, with a server of its own that answers at once.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest
import torch

from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.remote import UNSENT
from schemas.core.errors import StoreError
from stages.ports.protocols import TrainingState
from tests.integration.faulty_proxy import Fault, Proxy, faulty_proxy
from tests.integration.services import SECRETS, ObjectStore, rclone, seaweedfs
from tests.integration.writer import commit, machine, words_of
from tests.support.manifests import DIGEST
from tests.support.paths import ROOT

pytest.importorskip("s3fs", reason="extra s3")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

MB = 1_000_000


@pytest.fixture(scope="module")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="module")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def seaweed(seaweed_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    connect(seaweed_server.env, monkeypatch)
    return seaweed_server


@pytest.fixture(params=["seaweedfs", "rclone"])
def objects(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    name = "seaweed_server" if request.param == "seaweedfs" else "rclone_server"
    server: ObjectStore = request.getfixturevalue(name)
    connect(server.env, monkeypatch)
    return server


@pytest.fixture
def address() -> str:
    """A store that is empty."""
    return f"s3://distill/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(seaweed_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with faulty_proxy(seaweed_server.address) as made:
        connect(seaweed_server.env | {"AWS_ENDPOINT_URL": made.address}, monkeypatch)
        yield made


def connect(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let file systems that are made from now on go to this server."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def unsent(store: CheckpointStore) -> list[Path]:
    return list((store.root / UNSENT).iterdir())


def state(step: int, size: int = 8) -> TrainingState:
    return TrainingState(step, {"weight": torch.full((size,), float(step))}, {"tokens": 8.0 * step})


def writer(address: str, cache: Path, word: str, size: int) -> subprocess.Popen[str]:
    """A machine of its own that waits for a line before it keeps the stage."""
    command = [sys.executable, "-m", "tests.integration.writer", address, str(cache), word, str(size)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n", process.communicate()[0]
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_one_of_many_that_create_an_object_at_once_has_created_it(objects: ObjectStore, address: str) -> None:
    files = fsspec.filesystem("s3", use_listings_cache=False)
    path = urlsplit(address).netloc + urlsplit(address).path
    files.pipe_file(f"{path}/format", b"made by the first upload: the bucket too")

    def create(key: str, who: int) -> bool:
        try:
            files.pipe_file(f"{path}/{key}", f"{who}".encode(), mode="create")
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        for number in range(20):
            won = list(pool.map(lambda who, key=f"key{number}": create(key, who), range(6)))
            kept = int(files.cat_file(f"{path}/key{number}"))
            assert won[kept]
            assert sum(won) == (1 if objects.keeps_conditions else 6)


def test_machines_that_finish_one_stage_at_once_leave_one_whole_checkpoint(
    objects: ObjectStore, address: str, tmp_path: Path
) -> None:
    writers = [writer(address, tmp_path / word, word, 3 * MB) for word in ("one", "two")]
    for process in writers:
        begin(process)
    for process in writers:
        output, _ = process.communicate(timeout=200)
        assert (process.returncode, output) == (0, "done\n")
    found = [words_of(machine(address, tmp_path / name)) for name in ("third", "fourth")]
    assert found[0] in ({b"one"}, {b"two"})
    assert found[0] == found[1]
    # Each machine keeps what it made, and has nothing left to send.
    for word in ("one", "two"):
        store = machine(address, tmp_path / word)
        assert (words_of(store), unsent(store)) == ({word.encode()}, [])


def test_a_machine_killed_while_it_sends_leaves_no_half_checkpoint_and_sends_it_when_it_is_back(
    objects: ObjectStore, address: str, tmp_path: Path
) -> None:
    moments = random.Random(0)
    began = time.monotonic()
    machine(address, tmp_path / "first")  # makes the bucket, and shows how fast this server is
    longest = max(0.4, 2 * (time.monotonic() - began))
    killed_before, kills = 0, 0
    while kills < 6:
        process = writer(address, tmp_path / "killed", "word", 12 * MB)
        begin(process)
        try:
            process.wait(moments.uniform(0.02, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        found = words_of(machine(address, tmp_path / f"other{kills}"))
        killed_before += found is None
        if found is not None:
            assert found == {b"word"}
            address = f"{address}x"  # another store, and the same machine
    store = machine(address, tmp_path / "killed")
    if words_of(store) is None:
        commit(store, b"word ", 12 * MB)
    assert unsent(store) == []
    assert words_of(machine(address, tmp_path / "last")) == {b"word"}
    assert killed_before, "no kill fell before the end"


def test_files_that_are_sent_in_parts_arrive_whole(objects: ObjectStore, address: str, tmp_path: Path) -> None:
    one, other = machine(address, tmp_path / "one"), machine(address, tmp_path / "other")
    commit(one, b"word ", 120 * MB)
    assert unsent(one) == []
    assert words_of(other) == {b"word"}
    states = one.states("general", DIGEST)
    states.save(state(3, 30 * MB))
    states.send()
    latest = other.states("general", DIGEST).latest()
    assert latest is not None
    assert latest.step == 3
    assert torch.equal(latest.tensors["weight"], state(3, 30 * MB).tensors["weight"])


def test_states_continue_on_another_machine_and_go_with_their_stage(
    objects: ObjectStore, address: str, tmp_path: Path
) -> None:
    one, other = machine(address, tmp_path / "one"), machine(address, tmp_path / "other")
    states = one.states("teacher", DIGEST)
    for step in (3, 7):
        states.save(state(step))
        states.send()
    moved = other.states("teacher", DIGEST)
    latest = moved.latest()
    assert latest is not None
    assert (latest.step, latest.numbers) == (7, {"tokens": 56.0})
    moved.save(state(9))
    moved.send()
    # It was only thought to be gone: its state of an earlier step replaces nothing.
    states.save(state(8))
    states.send()
    third = machine(address, tmp_path / "third").states("teacher", DIGEST).latest()
    assert third is not None
    assert third.step == 9
    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.pipe_file(f"{address}/states/teacher-{DIGEST[:16]}/of-a-killed-one/state.json", b"{}")
    commit(other, b"word ", MB)
    assert [path for path in files.find(f"{address}/states") if files.info(path)["size"]] == []  # but folders
    assert machine(address, tmp_path / "fourth").states("teacher", DIGEST).latest() is None


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_store_is_refused_with_other_credentials_before_any_work(
    objects: ObjectStore, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    connect({variable: "of-somebody-else-6"}, monkeypatch)
    with pytest.raises(StoreError, match=r"cannot be used \(.+credentials in the environment") as refused:
        machine(address, tmp_path / "one")
    assert "somebody-else" not in str(refused.value)
    assert SECRETS["S3_PASSWORD"] not in str(refused.value)


@pytest.mark.parametrize("minutes", [4, -4, 40, -40])
def test_a_clock_that_differs_a_little_is_no_matter_and_one_that_differs_much_is_refused(
    seaweed: ObjectStore, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    def shifted(remove_tzinfo: bool = True) -> datetime:
        moved = datetime.now(UTC) + timedelta(minutes=minutes)
        return moved.replace(tzinfo=None) if remove_tzinfo else moved

    monkeypatch.setattr("botocore.auth.get_current_datetime", shifted)  # what requests are signed with
    monkeypatch.setattr(time, "time", lambda began=time.time: began() + 60 * minutes)
    if abs(minutes) < 15:
        store = machine(address, tmp_path / "one")
        states = store.states("teacher", DIGEST)
        states.save(state(5))
        states.send()
        commit(store, b"word ", MB)
        monkeypatch.undo()
        connect(seaweed.env, monkeypatch)
        assert words_of(machine(address, tmp_path / "other")) == {b"word"}
        return
    with pytest.raises(StoreError, match=r"cannot be used \(PermissionError: .+machine's clock"):
        machine(address, tmp_path / "one")


ALWAYS: dict[str, tuple[Fault, int]] = {
    "every second request is answered with 503": ("busy", 2),
    "every third answer is cut off": ("cut off", 3),
    "every request is done twice": ("twice", 1),
    "the answer of every second request is lost": ("answer lost", 2),
}


@pytest.mark.parametrize("name", ALWAYS)
def test_a_store_behind_a_bad_network_has_everything_once_and_whole(
    proxy: Proxy, address: str, tmp_path: Path, name: str
) -> None:
    fault, every = ALWAYS[name]
    one = machine(address, tmp_path / "one")
    proxy.numbers.clear()
    proxy.fault = lambda method, _path, number: fault if number % every == 0 and applies(fault, method) else None
    states = one.states("general", DIGEST)
    for step in (3, 7):
        states.save(state(step))
        states.send()
    commit(one, b"word ", 2 * MB)
    assert unsent(one) == []
    other = machine(address, tmp_path / "other")
    assert words_of(other) == {b"word"}
    latest = other.states("general", DIGEST).latest()
    assert latest is not None
    assert latest.step == 7
    assert len(proxy.faults) > 5
    proxy.fault = lambda *_: None
    third = machine(address, tmp_path / "third")
    assert words_of(third) == {b"word"}


def applies(fault: Fault, method: str) -> bool:
    """An answer without content cannot be cut off."""
    return fault != "cut off" or method == "GET"


def test_a_store_that_may_only_be_read_is_refused_at_the_start_and_goes_on_locally_later(
    proxy: Proxy, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = machine(address, tmp_path / "one")
    proxy.fault = lambda method, _path, _number: "forbidden" if method == "PUT" else None
    with pytest.raises(StoreError, match=r"cannot be used \(PermissionError"):
        machine(f"{address}/new", tmp_path / "other")
    commit(one, b"word ", MB)
    assert caplog.text.count("does not answer") == 1
    assert words_of(one) == {b"word"}
    assert len(unsent(one)) == 1
    proxy.fault = lambda *_: None
    assert words_of(machine(address, tmp_path / "other")) is None
    assert unsent(machine(address, tmp_path / "one")) == []
    assert words_of(machine(address, tmp_path / "third")) == {b"word"}


def test_a_server_that_is_killed_has_what_it_had_and_gets_what_was_made_meanwhile(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(seaweedfs(tmp_path / "server"))
        connect(server.env, monkeypatch)
        one = machine(address, tmp_path / "one")
        states = one.states("general", DIGEST)
        states.save(state(3))
        states.send()
        server.process.process.kill()
        server.process.wait(30)
        commit(one, b"word ", MB)
        assert len(unsent(one)) == 1
        assert "goes on with its local copy" in caplog.text
        stack.enter_context(seaweedfs(tmp_path / "server", server.ports))
        assert unsent(machine(address, tmp_path / "one")) == []
        other = machine(address, tmp_path / "other")
        assert words_of(other) == {b"word"}
        latest = other.states("general", DIGEST).latest()
        assert latest is not None
        assert latest.step == 3
