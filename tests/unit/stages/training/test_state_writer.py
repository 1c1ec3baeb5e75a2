"""States are written during training and complete, and failed writes are reported."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from schemas.core.errors import Interrupted, StoreError
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.recipe import Recipe
from stages.ports.plain import MemoryStates, MetricList, SilentProgress, plain_ports
from stages.ports.protocols import Ports, TrainingState
from stages.training.fit import fit
from stages.training.state_writer import StateWriter
from stages.training.trainer import Trainer
from tests.support.toys import make_trainer, toy_recipe

PATIENCE = 30.0


class HeldStates(MemoryStates):
    """A slow disk that completes a write only when released."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.released = threading.Event(), threading.Event()

    def save(self, state: TrainingState) -> None:
        """Write when released."""
        self.begun.set()
        assert self.released.wait(PATIENCE)
        super().save(state)


class FullStates(MemoryStates):
    """A full disk."""

    def save(self, state: TrainingState) -> None:
        """Refuse."""
        raise StoreError(f"the disk is full at step {state.step}")


def state(step: int) -> TrainingState:
    return TrainingState(step, {"a": torch.full((4,), float(step))}, {})


def test_writing_does_not_block_and_states_stay_in_order() -> None:
    states = HeldStates()
    with StateWriter(states) as writer:
        writer.save(state(1))
        assert states.begun.wait(PATIENCE)
        assert writer.busy
        assert states.saved == []
        states.released.set()
        writer.save(state(2))
    assert [state.step for state in states.saved] == [1, 2]


def test_a_failed_state_write_is_reported_once() -> None:
    with StateWriter(FullStates()) as writer:
        writer.save(state(1))
        with pytest.raises(StoreError, match="full at step 1"):
            writer.wait()
        writer.wait()
        assert not writer.busy


def test_a_refused_state_does_not_hide_another_error() -> None:
    def fails() -> None:
        with StateWriter(FullStates()) as writer:
            writer.save(state(1))
            raise KeyError("something else")

    with pytest.raises(KeyError, match="something else"):
        fails()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return toy_recipe(tmp_path / "in", steps=12)


def run(recipe: Recipe, ports: Ports) -> Trainer:
    """Run the general stage to its end, from the newest state."""
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    trainer = make_trainer(config, ports)
    fit(
        trainer.student,
        trainer.teachers.models,
        trainer.tokens,
        trainer.objective,
        config.training,
        ports,
        stage="general",
    )
    return trainer


def test_a_state_written_during_training_belongs_to_its_step(recipe: Recipe, tmp_path: Path) -> None:
    states, progress = HeldStates(), SilentProgress()

    def stop() -> bool:
        if progress.done == 8:  # five steps and more after the first state was begun
            states.released.set()
        return False

    ports = plain_ports(tmp_path, states=states, progress=progress, state_minutes=1e-9, stop_requested=stop)
    whole = run(recipe, ports)
    assert states.saved[0].step == 1
    again = MemoryStates(saved=states.saved[:1])
    resumed = run(recipe, plain_ports(tmp_path, states=again))
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name


def test_a_failed_state_write_ends_the_stage_with_its_message(recipe: Recipe, tmp_path: Path) -> None:
    ports = plain_ports(tmp_path, states=FullStates(), state_minutes=1e-9)
    with pytest.raises(StoreError, match="the disk is full at step 1"):
        run(recipe, ports)


def test_a_requested_stop_saves_the_completed_step(recipe: Recipe, tmp_path: Path) -> None:
    states, progress = MemoryStates(), SilentProgress()
    ports = plain_ports(tmp_path, states=states, progress=progress, stop_requested=lambda: progress.done == 5)
    with pytest.raises(Interrupted, match="step 5 of 12"):
        run(recipe, ports)
    assert [state.step for state in states.saved] == [5]


def test_a_stop_within_a_step_leaves_that_step_to_the_resumed_stage(recipe: Recipe, tmp_path: Path) -> None:
    states, progress, looks = MemoryStates(), SilentProgress(), list[int]()

    def stop() -> bool:
        looks.append(progress.done)
        return looks.count(5) == 2  # after step 5, then after the first pass of the next

    cut = {"microbatch_tokens": 40, "log_every": 4}
    with pytest.raises(Interrupted, match="step 5 of 12"):
        run(recipe, plain_ports(tmp_path, states=states, progress=progress, stop_requested=stop, **cut))
    assert [state.step for state in states.saved] == [5]
    sinks = MetricList(), MetricList()
    whole, resumed = (
        run(recipe, plain_ports(tmp_path, states=kept, sink=sink, **cut))
        for kept, sink in zip((MemoryStates(), states), sinks, strict=True)
    )
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
    assert sinks[0].values("train/loss")[8] == sinks[1].values("train/loss")[8]  # steps 5 to 8, across the stop
