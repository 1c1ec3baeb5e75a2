"""A stage in several processes, started by torchrun: killed, stopped, and continued."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.processes.launch import run_in_processes
from pipeline.processes.wire import Request
from pipeline.store.checkpoints import open_store
from schemas.core.base import digest_of
from schemas.core.errors import Interrupted, ProcessLost
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.parts import Execution
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import StageResult
from stages.identity import stage_identity
from stages.ports.plain import SilentProgress, plain_ports
from tests.support.toys import toy_recipe

pytestmark = pytest.mark.slow
STEPS = 150


@dataclass
class Watched(SilentProgress):
    """A progress that does something to the run, once, when a number of steps is done."""

    at: int = 0
    action: object = None
    times: list[float] = field(default_factory=list)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        super().advance(done, metrics)
        if done >= self.at and callable(self.action):
            action, self.action = self.action, None
            self.times.append(time.monotonic())
            action()


def ranks() -> list[psutil.Process]:
    """The processes of the stage that this process has started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.cmdline()[2:4] == ["-m", "pipeline.processes.rank"]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StageConfig:
    recipe = toy_recipe(tmp_path_factory.mktemp("in"), steps=STEPS)
    return stage_config(recipe, recipe.stages[0], TaskTeachers())


def run(config: StageConfig, folder: Path, number: int, progress: SilentProgress, **changes: object) -> StageResult:
    """Train the stage in some processes, with a state after every step."""
    store = open_store(folder)
    identity = stage_identity(config, None)
    execution = Execution(state_minutes=1e-6, log_every=1)
    request = Request(
        config=config,
        parent=None,
        identity=identity,
        digest=digest_of(identity),
        needs=(),
        store=str(store.root),
        execution=execution,
        mlflow_run_id=None,
    )
    ports = replace(plain_ports(folder / "plain", progress=progress), cache=store.cache, **changes)
    return run_in_processes(number, request, ports)


def weights(result: StageResult) -> dict[str, Tensor]:
    return load_file(Path(result.checkpoint.path) / "model" / "model.safetensors")


def killed_with_its_run(config: StageConfig, folder: Path) -> list[psutil.Process]:
    """Kill a run in which the stage has begun; return the processes that it had started."""
    before = set(folder.glob("states/*/step-*"))
    child = os.fork()
    if not child:
        try:
            run(config, folder, 2, Watched())
        finally:
            os._exit(0)
    end = time.monotonic() + 200
    while len(set(folder.glob("states/*/step-*")) - before) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    processes = psutil.Process(child).children(recursive=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return processes


def test_a_stage_that_is_stopped_and_killed_in_every_way_ends_bit_identical(
    config: StageConfig, tmp_path: Path
) -> None:
    watched = Watched()
    expected = run(config, tmp_path / "undisturbed", 2, watched)
    assert (expected.steps, watched.done, watched.phases[-1]) == (STEPS, STEPS, "judging")
    folder = tmp_path / "disturbed"

    asked = threading.Event()
    with pytest.raises(Interrupted, match=rf"stopped at step \d+ of {STEPS} of general; state kept"):
        run(config, folder, 2, Watched(at=5, action=asked.set), stop_requested=asked.is_set)
    assert not ranks()

    of_run = killed_with_its_run(config, folder)
    assert len(of_run) == 3, "a launcher and two processes"
    assert not psutil.wait_procs(of_run, timeout=30)[1], "no process outlives its run"

    for rank, step in ((1, 70), (0, 110)):

        def kill(rank: int = rank) -> None:
            sorted(ranks(), key=lambda process: process.pid)[rank].send_signal(signal.SIGKILL)

        watched = Watched(at=step, action=kill)
        with pytest.raises(ProcessLost, match="the last state is kept"):
            run(config, folder, 2, watched)
        assert watched.started[-1][2] > 0, "it should continue"
        assert time.monotonic() - watched.times[0] < 60
        assert not ranks(), "no process outlives its stage"

    def kill_launcher() -> None:
        (launcher,) = {rank.ppid() for rank in ranks()}
        os.kill(launcher, signal.SIGKILL)

    watched = Watched(at=130, action=kill_launcher)
    result = run(config, folder, 2, watched)
    assert watched.times, "torchrun was killed, and its processes went on"
    assert result.tokens == expected.tokens
    wanted = weights(expected)
    for name, tensor in weights(result).items():
        assert torch.equal(tensor, wanted[name]), name
