"""Stages that several processes train: another number after a stop, a shared cache, memory that runs out in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from schemas.core.errors import ConfigError, Interrupted
from schemas.core.training import BatchSize
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.parts import Launch
from schemas.recipe.stage import StageConfig
from stages.data.batching.tokens import Batch
from stages.device.launch import number_of_processes
from stages.objective.terms import Needs, Outputs, run_model
from stages.ports.plain import MetricList, SealedStates, SilentProgress, plain_ports
from stages.ports.protocols import Ports
from stages.ports.world import World
from stages.run import PreparedStage
from stages.training import trainer as loop
from tests.support.ranks import in_processes
from tests.support.toys import make_trainer, toy_recipe

STEPS, STOP = 12, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def config(folder: Path) -> StageConfig:
    """A stage of two and a half epochs."""
    recipe = toy_recipe(folder / "in", steps=STEPS)
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    training = config.training.model_copy(update={"batch": BatchSize(amount=32, unit="sequences")})
    return config.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def prepare(config: StageConfig, folder: Path) -> Callable[[], PreparedStage]:
    return lambda: PreparedStage.of(config, None, plain_ports(folder), None)


def trained(stage: PreparedStage, ports: Ports) -> dict[str, Tensor]:
    """The weights that a process ends with, and its number of tokens."""
    result = stage.train(ports)
    weights = {name: tensor.clone() for name, tensor in stage.initial.model.state_dict().items()}
    return weights | {"tokens": torch.tensor(result.tokens)}


@pytest.fixture(scope="module")
def alone(prepare: Callable[[], PreparedStage], folder: Path) -> dict[str, Tensor]:
    return trained(prepare(), plain_ports(folder))


def assert_same(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-5, atol=2e-6, msg=name)


def test_a_state_of_two_processes_goes_on_in_three(
    prepare: Callable[[], PreparedStage], alone: dict[str, Tensor], folder: Path
) -> None:
    states, stage = SealedStates(folder / "states"), prepare()
    ports = plain_ports(folder, states=states)

    def until_stopped(world: World) -> dict[str, Tensor]:
        asked = iter(range(1, STEPS))
        # Asked in one process alone, once a step: all stop after the same one.
        stop = (lambda: next(asked) >= STOP) if world.rank else lambda: False
        own = ports if world.rank == 0 else replace(ports, states=plain_ports(folder).states)
        with pytest.raises(Interrupted, match=f"stopped at step {STOP} of {STEPS}"):
            trained(stage, replace(own, world=world, stop_requested=stop))
        return {"stopped": torch.ones(1)}

    in_processes(2, until_stopped, folder / "two")
    state = states.latest()
    assert state is not None
    assert state.step == STOP
    results = in_processes(3, lambda world: trained(stage, replace(ports, world=world)), folder / "three")
    assert_same(results[0], alone)
    assert all(torch.equal(results[2][name], tensor) for name, tensor in results[0].items())


def test_processes_fill_a_teachers_cache_together(
    prepare: Callable[[], PreparedStage], alone: dict[str, Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.training.teacher_cache.BATCH_TOKENS", 64)
    stage = prepare()
    ports = plain_ports(folder / "cache", teacher_cache_bytes=10**9)

    def with_cache(world: World) -> dict[str, Tensor]:
        result = trained(stage, replace(ports, world=world))
        assert isinstance(ports.progress, SilentProgress)
        (filling, batches, _), *_ = ports.progress.started
        assert filling == "general, teacher"
        return result | {"batches": torch.tensor(batches)}

    one, two = (in_processes(number, with_cache, folder / f"cache{number}") for number in (1, 2))
    assert two[0].pop("batches") == one[0].pop("batches") // 2
    assert_same(two[0], one[0])
    assert_same(one[0], alone)


def test_all_processes_halve_their_passes_where_one_runs_out_of_memory(config: StageConfig, folder: Path) -> None:
    progress = SilentProgress()
    trainer = make_trainer(config, plain_ports(folder, progress=progress, sink=MetricList()))

    def gradient(world: World, limit: float) -> dict[str, Tensor]:
        def run(model: torch.nn.Module, batch: Batch, needs: Needs) -> Outputs:
            if world.rank == world.size - 1 and batch.input_ids.numel() > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return run_model(model, batch, needs)

        loop.run_model = run  # type: ignore[attr-defined]
        trainer.world = world
        with world.joined():
            trainer.gradient()
        gradients = {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}
        return gradients | {"passes": torch.tensor([trainer.batches.microbatch_tokens, len(progress.notes)])}

    plain = in_processes(1, lambda world: gradient(world, 1e9), folder / "plain")[0]
    results = in_processes(2, lambda world: gradient(world, 100), folder / "tight")
    assert torch.equal(results[0]["passes"], results[1]["passes"])
    assert 0 < results[0].pop("passes")[0] <= 100 < plain.pop("passes")[0]
    assert_same(results[0], plain)


def test_auto_is_one_process_for_each_gpu_and_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [number_of_processes(Launch(processes=number)) for number in ("auto", 1, 3)] == [1, 1, 3]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [number_of_processes(Launch(processes=number)) for number in ("auto", 1, 2)] == [2, 1, 2]
    with pytest.raises(ConfigError, match=r"execution\.launch\.processes: 3, but this machine shows 2 GPUs"):
        number_of_processes(Launch(processes=3))
    for number in (0, 65, 1.5, "many", True):
        with pytest.raises(ValidationError, match="expected a whole number from 1 to 64, or auto"):
            Launch.model_validate({"processes": number})
