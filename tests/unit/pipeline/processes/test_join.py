"""Machines that join a run, and those that are refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.processes.join import join
from pipeline.processes.machines import Machines, gathered_machines
from pipeline.processes.wire import Request
from pipeline.store.checkpoints import open_store
from pipeline.store.open_runs import open_run
from schemas.core.base import digest_of
from schemas.core.errors import ConfigError, DataError, ServiceError
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.parts import Execution, Launch
from stages.device.network import address_towards, check_rendezvous, interface_of
from stages.identity import stage_identity
from stages.ports.plain import SilentProgress, plain_ports
from stages.versions import installed_versions
from tests.support.toys import toy_recipe


@pytest.fixture
def rendezvous() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def machines(store: Path, rendezvous: str) -> Iterator[Machines]:
    opened = open_store(store)
    launch = Launch(machines=2, rendezvous=rendezvous, timeout_minutes=0.01)
    with open_run(store, "toy") as record, gathered_machines(launch, opened, record) as machines:
        assert machines is not None
        yield machines


@pytest.fixture(scope="module")
def request_of_a_stage(tmp_path_factory: pytest.TempPathFactory) -> Request:
    recipe = toy_recipe(tmp_path_factory.mktemp("in"))
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    identity = stage_identity(config, None)
    digest = digest_of(identity)
    return Request(
        config=config,
        parent=None,
        identity=identity,
        digest=digest,
        needs=(),
        store="/elsewhere",
        execution=Execution(),
        mlflow_run_id=None,
    )


def test_another_version_is_refused_with_both_named(
    machines: Machines, store: Path, rendezvous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = installed_versions()["torch"]
    here = installed_versions() | {"torch": "9.9.0", "python": "3.99"}
    monkeypatch.setattr("pipeline.processes.join.installed_versions", lambda: here)
    with pytest.raises(ConfigError, match=rf"has torch {torch.replace('+', '.')} there and 9\.9\.0 here; install"):
        join(rendezvous, store, None, print)
    (told,) = machines.refused()
    assert f"torch {torch} there and 9.9.0 here" in told
    assert not machines.refused(), "told once"


def test_another_store_is_refused_with_both_named(machines: Machines, store: Path, rendezvous: str) -> None:
    other = store.with_name("other")
    with pytest.raises(ConfigError, match=f"has the store {store}, and this machine {other}"):
        join(rendezvous, other, None, print)


def test_other_data_is_refused_with_both_named(
    machines: Machines, store: Path, rendezvous: str, request_of_a_stage: Request
) -> None:
    here = str(request_of_a_stage.identity["data"])
    there = request_of_a_stage.model_copy(update={"identity": request_of_a_stage.identity | {"data": "ab" * 32}})
    lines: list[str] = []
    with (
        machines.attempt(there, plain_ports(store)),
        pytest.raises(DataError, match=f"the run's data has the digest abababababababab, and .* {here[:16]}; give"),
    ):
        join(rendezvous, store, "3", lines.append)
    assert lines == [f"joined the run at {rendezvous} with 3 processes"]
    assert "the run's data" in machines.refused()[0]


def test_a_run_that_nobody_joins_says_what_to_do(
    machines: Machines, rendezvous: str, store: Path, request_of_a_stage: Request
) -> None:
    progress = SilentProgress()
    ports = replace(plain_ports(store), progress=progress)
    with machines.attempt(request_of_a_stage, ports) as attempt, pytest.raises(ConfigError) as raised:
        attempt.gather(1)
    assert str(raised.value) == (
        "execution.launch.machines: 2, and 1 after 0.01 minutes; start on each other one: distill join "
        f"{rendezvous}, or train on this one alone with: --set execution.launch.machines=1"
    )
    assert progress.phases == ["waiting for 1 more machine"]


def test_a_machine_leaves_when_the_run_has_ended(machines: Machines, store: Path, rendezvous: str) -> None:
    machines.board.put("end", True)
    lines: list[str] = []
    join(rendezvous, store, None, lines.append)
    assert lines[-1] == f"the run at {rendezvous} has ended"
    assert machines.board.get("left/1")


def test_a_port_that_never_answers_is_no_run(store: Path, rendezvous: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.processes.join._ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", int(rendezvous.partition(":")[2]))):
        with pytest.raises(ServiceError, match=f"{rendezvous}: "):
            join(rendezvous, store, None, print)


@pytest.mark.parametrize("processes", ["0", "two", "65"])
def test_a_wrong_number_of_processes_is_refused(
    processes: str, machines: Machines, store: Path, rendezvous: str
) -> None:
    with pytest.raises(ConfigError, match=f"--processes {processes}: expected a whole number from 1 to 64, or auto"):
        join(rendezvous, store, processes, print)


@pytest.mark.parametrize("text", ["node1", "node1:", ":29400", "node1:0", "node1:99999", "user@node1:29400"])
def test_a_rendezvous_is_a_host_and_a_port(text: str, store: Path) -> None:
    with pytest.raises(ValidationError, match="expected HOST:PORT, such as"):
        Launch(machines=2, rendezvous=text)
    with pytest.raises(ConfigError, match="RENDEZVOUS: expected HOST:PORT, such as"):
        join(text, store, None, print)


def test_several_machines_need_a_rendezvous() -> None:
    with pytest.raises(ValidationError, match="machines: 2 need a rendezvous, HOST:PORT"):
        Launch(machines=2)


def test_a_rendezvous_is_an_address_of_this_machine_and_a_free_port(rendezvous: str) -> None:
    check_rendezvous(rendezvous)
    with pytest.raises(ConfigError, match=r"cannot listen at 192\.0\.2\.1:29400 .*own addresses \(.*127\.0\.0\.1"):
        check_rendezvous("192.0.2.1:29400")
    with (
        closing(socket.create_server(("127.0.0.1", int(rendezvous.partition(":")[2])))),
        pytest.raises(ConfigError, match=f"cannot listen at {rendezvous} "),
    ):
        check_rendezvous(rendezvous)


def test_the_interface_is_that_of_the_route() -> None:
    assert address_towards("127.0.0.1", 29400) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None
