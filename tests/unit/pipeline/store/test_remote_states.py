"""States in an object store: a stage whose machine is gone continues on another."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch

from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import open_store
from pipeline.store.states import FolderStates
from stages.ports.protocols import TrainingState
from tests.support.manifests import DIGEST


def state(step: int) -> TrainingState:
    return TrainingState(step=step, tensors={"weight": torch.full((4, 8), float(step))}, numbers={"tokens": 8.0 * step})


def machine(folder: Path, name: str) -> FolderStates:
    """The states of a stage as a machine of that name sees them."""
    address = f"file://{folder / 'shared'}"
    store = open_store(read_settings(address, {"DISTILL_CACHE": str(folder / name)}).store)
    return store.states("general", DIGEST)


def step_of(states: FolderStates) -> int | None:
    latest = states.latest()
    return None if latest is None else latest.step


def shared(folder: Path) -> list[Path]:
    """Files of states in the store."""
    return sorted(path for path in (folder / "shared" / "states").rglob("*") if path.is_file())


def test_the_newest_state_continues_on_another_machine_and_an_older_one_never_replaces_it(tmp_path: Path) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    assert step_of(other) is None
    for step in (3, 7):
        one.save(state(step))
    one.send()
    latest = other.latest()
    assert latest is not None
    assert (latest.step, latest.numbers) == (7, {"tokens": 56.0})
    assert torch.equal(latest.tensors["weight"], state(7).tensors["weight"])
    other.save(state(9))
    other.send()
    one.save(state(8))  # it was only thought to be gone
    one.send()
    assert step_of(machine(tmp_path, "third")) == 9
    assert step_of(one) == 9
    assert len({path.parent for path in shared(tmp_path)}) == 2, "a pointer and one state"
    begun = tmp_path / "shared" / "states" / f"general-{DIGEST[:16]}" / "of-a-killed-one" / "state.json"
    begun.parent.mkdir()
    begun.write_text("{}", "utf-8")
    other.clear()
    assert shared(tmp_path) == []
    assert step_of(machine(tmp_path, "fourth")) is None


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_differs_does_not_decide_which_state_is_newest(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine(tmp_path, "one"), machine(tmp_path, "other")
    one.save(state(5))
    one.send()
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3600 * hours)
    assert step_of(other) == 5
    other.save(state(6))
    other.send()
    monkeypatch.undo()
    assert step_of(one) == 6
    one.save(state(7))
    one.send()
    assert step_of(machine(tmp_path, "third")) == 7


def test_a_saved_state_is_sent_while_training_goes_on(tmp_path: Path) -> None:
    states = machine(tmp_path, "one")
    states.save(state(5))
    end = time.monotonic() + 60
    while step_of(machine(tmp_path, "other")) != 5:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("harm", ["damaged", "missing", "pointer"])
def test_a_state_that_arrives_damaged_is_not_used(harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = machine(tmp_path, "one")
    one.save(state(4))
    one.send()
    pointer, tensors = (
        next(path for path in shared(tmp_path) if path.name == name) for name in ("newest", "state.safetensors")
    )
    if harm == "missing":
        tensors.unlink()
    else:
        file = tensors if harm == "damaged" else pointer
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        assert step_of(machine(tmp_path, "other")) is None
    assert "newest is" in caplog.text
    assert step_of(one) == 4


def test_a_store_that_is_away_keeps_no_state_from_being_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = machine(tmp_path, "one")
    (tmp_path / "shared").rename(tmp_path / "away")
    (tmp_path / "shared").write_text("a file where the store was", encoding="utf-8")
    one.save(state(4))
    one.send()
    assert step_of(one) == 4
    assert "does not answer" in caplog.text
