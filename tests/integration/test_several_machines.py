"""Two machines that train a stage together: two network namespaces, with a cable between them that can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.support.paths import ROOT
from tests.support.toys import toy_recipe_dict

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

STEPS = 60
FIRST, SECOND = "10.99.20.1", "10.99.20.2"
RENDEZVOUS = f"{FIRST}:29400"
MINUTES = 1
"""Time-out of the tests' runs: a machine that joins has to start within it."""


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())


@dataclass
class Cable:
    """Two namespaces, each with one end of a cable."""

    names: tuple[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def link(self, state: str) -> None:
        """Set the second machine's end up or down, of which the first one hears nothing."""
        ip("-n", self.names[1], "link", "set", "d1", state)

    def start(self, machine: int, folder: Path, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start `distill` on a machine, whose local copy of the store is its own."""
        variables = os.environ | {
            "DISTILL_CACHE": str(folder / f"machine{machine}"),
            "DISTILL_EXPORTS": "0",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = ["ip", "netns", "exec", self.names[machine], sys.executable, "-m", "pipeline", *words]
        with open(log, "wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=variables)
        self.started.append(process)
        return process


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    if shutil.which("ip") is None:
        pytest.skip("the command ip (iproute2) is missing")
    names = (f"distill0-{os.getpid()}", f"distill1-{os.getpid()}")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "d0", "netns", names[0], "type", "veth", "peer", "name", "d1", "netns", names[1])
        for name, end, address in zip(names, ("d0", "d1"), (FIRST, SECOND), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except OSError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        pytest.skip(f"network namespaces cannot be made here: {error}")
    made = Cable(names)
    yield made
    for process in made.started:
        kill(process)
    for name in names:
        ip("netns", "del", name)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started, as a machine that is switched off."""
    if process.poll() is None:
        everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in everything:
            one.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    parts = toy_recipe_dict(folder, steps=STEPS)
    parts["stages"] = parts["stages"][:1]
    parts["execution"] = {"state_minutes": 1e-4, "log_every": 1}
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(parts))
    return file


@contextmanager
def together(cable: Cable, recipe: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A run of two machines in the block, of which the second has not joined yet."""
    folder.mkdir(exist_ok=True)
    log = folder / "run.log"
    settings = {"machines": 2, "rendezvous": RENDEZVOUS, "timeout_minutes": MINUTES}
    changes = [word for name, value in settings.items() for word in ("--set", f"execution.launch.{name}={value}")]
    run = cable.start(0, folder, "run", str(recipe), "--store", f"file://{folder}/store", *changes, log=log)
    try:
        yield run, log
    finally:
        kill(run)


def joined(cable: Cable, folder: Path, log: str = "join.log") -> subprocess.Popen[bytes]:
    store = f"file://{folder}/store"
    return cable.start(1, folder, "join", RENDEZVOUS, "--store", store, log=folder / log)


def wait_for_step(folder: Path, step: int) -> None:
    """Wait until the first machine has a state of that step or a later one."""
    end = time.monotonic() + 300
    while max(steps(folder), default=0) < step:
        assert time.monotonic() < end, (folder / "run.log").read_text()
        time.sleep(0.05)


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in folder.glob("machine0/*/states/*/step-*")]


def weights(folder: Path, machine: int = 0) -> dict[str, Tensor]:
    (file,) = folder.glob(f"machine{machine}/*/checkpoints/general-*/model/model.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def undisturbed(cable: Cable, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights of a stage that two machines trained without an incident."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with together(cable, recipe, folder) as (run, log):
        joining = joined(cable, folder)
        assert run.wait() == 0, log.read_text()
        assert joining.wait(60) == 0
    assert "general: trained by 2 processes of 2 machines: this one," in log.read_text()
    assert f"the run at {RENDEZVOUS} has ended" in (folder / "join.log").read_text()
    assert not list(folder.glob("machine1/*/checkpoints/general-*")), "one machine keeps the checkpoint"
    return weights(folder)


def test_one_machine_makes_the_same_weights(
    cable: Cable, recipe: Path, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    run = cable.start(0, tmp_path, "run", str(recipe), "--store", f"file://{tmp_path}/store", log=tmp_path / "run.log")
    assert run.wait() == 0, (tmp_path / "run.log").read_text()
    assert_close(weights(tmp_path), undisturbed)


def test_a_machine_that_is_killed_is_replaced_by_another(
    cable: Cable, recipe: Path, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    with together(cable, recipe, tmp_path) as (run, log):
        joining = joined(cable, tmp_path)
        wait_for_step(tmp_path, 10)
        kill(joining)
        killed, again = time.monotonic(), joined(cable, tmp_path, "again.log")
        wait_for(log, "no longer answers; the last state is kept")
        assert time.monotonic() - killed < 40, "a connection that is closed is noticed at once"
        assert again.wait() == 0, (tmp_path / "again.log").read_text()
        assert run.wait() == 0, log.read_text()
    text = log.read_text()
    assert text.count("no longer answers") == 1
    assert f"({SECOND}) no longer answers" in text
    assert "general: continuing from step" in text
    assert_equal(weights(tmp_path), undisturbed)


def test_a_machine_that_vanishes_without_a_word_is_given_up_in_time(
    cable: Cable, recipe: Path, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    with together(cable, recipe, tmp_path) as (run, log):
        joining = joined(cable, tmp_path)
        wait_for_step(tmp_path, 10)
        cable.link("down")
        try:
            cut = time.monotonic()
            wait_for(log, "no longer answers; the last state is kept")
            assert time.monotonic() - cut < 60 * MINUTES + 30
            assert joining.wait(60 * MINUTES + 30) == 1
            assert (tmp_path / "join.log").read_text().count("error:") == 1
            assert f"{RENDEZVOUS}: no answer for {60 * MINUTES:.0f} seconds" in (tmp_path / "join.log").read_text()
            # Nobody joins: the next attempt ends with what to do.
            assert run.wait(60 * MINUTES + 120) == 2, log.read_text()
        finally:
            cable.link("up")
    text = log.read_text()
    assert text.count("no longer answers") == 1
    assert f"execution.launch.machines: 2, and 1 after {MINUTES} minutes" in text
    assert "Traceback" not in text

    done = max(steps(tmp_path))
    alone = cable.start(
        0, tmp_path, "run", str(recipe), "--store", f"file://{tmp_path}/store", log=tmp_path / "alone.log"
    )
    assert alone.wait() == 0
    assert f"general: continuing from step {done} of {STEPS}" in (tmp_path / "alone.log").read_text()
    assert_close(weights(tmp_path), undisturbed)


def test_a_run_that_is_killed_ends_its_other_machines(cable: Cable, recipe: Path, tmp_path: Path) -> None:
    with together(cable, recipe, tmp_path) as (run, _):
        joining = joined(cable, tmp_path)
        wait_for_step(tmp_path, 5)
        processes = psutil.Process(joining.pid).children(recursive=True)
        assert len(processes) >= 2, "a launcher and a process"
        kill(run)
        assert joining.wait(60) == 1
    assert "the run has ended without a word" in (tmp_path / "join.log").read_text()
    assert not psutil.wait_procs(processes, timeout=30)[1], "no process outlives its machine's part"


def test_a_machine_with_another_store_is_refused(cable: Cable, recipe: Path, tmp_path: Path) -> None:
    with together(cable, recipe, tmp_path) as (run, log):
        joining = cable.start(1, tmp_path, "join", RENDEZVOUS, "--store", str(tmp_path / "other"), log=tmp_path / "j")
        assert joining.wait() == 2
        line = (tmp_path / "j").read_text().split("error: ")[1].strip()
        assert f"has the store file://{tmp_path}/store, and this machine {tmp_path}/other" in line
        assert "\n" not in line
        wait_for(log, f"({SECOND}): the run at {RENDEZVOUS} has the store")
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) != 0


def wait_for(log: Path, words: str) -> None:
    end = time.monotonic() + 300
    while words not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def assert_close(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, rtol=0, atol=5e-6, msg=name)


def assert_equal(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], tensor) for name, tensor in expected.items())
