"""Disk, memory and time of a run in several processes, as its plan shows them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.planning.plan import Plan, make_plan, print_plan
from pipeline.planning.room import Room, StageRoom, described, room_of
from schemas.core.errors import StoreError
from schemas.core.wording import shown_bytes
from schemas.recipe.recipe import Recipe
from stages.preflight.groups import LOOPBACK_BYTES, MESSAGE_SECONDS
from stages.preflight.scale import SUMS_IN_A_STEP
from tests.support.toys import toy_recipe_dict

STAGES = [StageRoom(checkpoint=10, states=90, answers=500), StageRoom(20, 200, 0), StageRoom(5, 30, 300)]


def test_checkpoints_add_up_and_states_go_with_their_stage(tmp_path: Path) -> None:
    room = room_of(STAGES, tmp_path / "not" / "there")
    assert (room.stays, room.needed, room.most) == (10 + 20 + 5, 10 + 20 + 200, 10 + 90 + 500)
    assert room.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_run_for_which_the_disk_is_too_small_is_refused(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StoreError, match=r"has \d.* free, and this run needs about .* GB: .*distill gc lists"):
        room_of([StageRoom(10**9, 2 * free, 0)], tmp_path)
    # A run can do without the teachers' answers.
    room = room_of([StageRoom(10**9, 0, 2 * free)], tmp_path)
    assert "set execution.teacher_cache_gigabytes=0" in described(room)


def test_a_disk_with_room_is_described_in_a_few_words() -> None:
    room = Room(stays=62_000_000, needed=10**9, most=4_200_000_000, free=45 * 10**9)
    assert described(room) == "disk: up to 4.2 GB while it runs, 62 MB stay; 45.0 GB are free"


def planned(folder: Path, **launch: object) -> tuple[Plan, str]:
    recipe = toy_recipe_dict(folder)
    recipe["execution"]["launch"] = launch
    plan = make_plan(Recipe.model_validate(recipe), folder / "store")
    console = Console(width=80, file=io.StringIO())
    print_plan(plan, console)
    assert isinstance(console.file, io.StringIO)
    return plan, " ".join(console.file.getvalue().split())


def test_times_of_several_processes_are_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.planning.plan.matrix_rate", lambda _precision: 1e9)
    one, words = planned(tmp_path)
    assert "times are for" not in words
    assert f"while it runs, {shown_bytes(one.room.stays)} stay;" in words
    assert f"memory: {shown_bytes(max(stage.process_bytes for stage in one.stages))} for models" in words
    two, words = planned(tmp_path, processes=2)
    assert "times are for 2 processes, which share the cores of their machine; a step waits" in words
    for alone, together in zip(one.stages, two.stages, strict=True):
        # The cores do the same work, and each step waits for gradients and sums.
        waits = together.gradient_bytes / (LOOPBACK_BYTES / 2) + (1 + SUMS_IN_A_STEP) * 2 * MESSAGE_SECONDS
        assert together.seconds == pytest.approx(alone.seconds + together.steps * waits, rel=1e-4)
        assert together.process_bytes == alone.process_bytes > 0
    assert one.room.stays == two.room.stays == sum(stage.checkpoint_bytes for stage in one.stages)


def test_machines_divide_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.planning.plan.matrix_rate", lambda _precision: 1e6)
    one, _ = planned(tmp_path)
    two, words = planned(tmp_path, machines=2, rendezvous="127.0.0.1:29400")
    assert "times are for 1 on each of 2 machines, each with its machine for itself; a step waits" in words
    assert "assumed: 25 Gbit/s between machines" in words
    assert two.seconds == pytest.approx(one.seconds / 2, rel=0.05)


@pytest.mark.parametrize(("number", "text"), [(3.21e9, "3.2 GB"), (470e6, "470 MB"), (11_800, "12 kB"), (0, "0 kB")])
def test_bytes_are_written_with_few_digits(number: float, text: str) -> None:
    assert shown_bytes(number) == text
