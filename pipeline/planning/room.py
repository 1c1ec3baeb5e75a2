"""Disk space of a run in its store: what stays, and what its states and the teachers' answers take for a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from schemas.core.base import Frozen
from schemas.core.errors import StoreError
from schemas.core.wording import shown_bytes
from stages.preflight.cost import Cost


class StageRoom(NamedTuple):
    """Disk space of a stage that is to be trained, in bytes."""

    checkpoint: int
    """Stays."""
    states: int
    """While it is trained."""
    answers: int
    """Of its teachers, while it is trained, if there is room."""

    @classmethod
    def of(cls, cost: Cost) -> StageRoom:
        """Return the space of a stage of this cost."""
        return cls(cost.sizes.checkpoint_bytes, cost.sizes.states_bytes, cost.kept_bytes)


class Room(Frozen):
    """Disk space of a run in its store, in bytes, without logs, exports and data that is made while it runs."""

    stays: int
    """Checkpoints."""
    needed: int
    """Most at a time without the teachers' answers, for which a run can do without room."""
    most: int
    """Most at a time."""
    free: int
    """Free space of the disk."""


def room_of(stages: Iterable[StageRoom], store: Path) -> Room:
    """Return the disk space of stages that are trained one after another in a store.

    Raises:
        StoreError: the disk does not have it.
    """
    stays = needed = most = 0
    for stage in stages:
        stays += stage.checkpoint
        needed = max(needed, stays + stage.states)
        most = max(most, stays + stage.states + stage.answers)
    existing = next(part for part in (store, *store.parents) if part.exists())
    room = Room(stays=stays, needed=needed, most=most, free=shutil.disk_usage(existing).free)
    if room.needed > room.free:
        has, wants = shown_bytes(room.free), shown_bytes(room.needed)
        raise StoreError(
            f"{store} has {has} free, and this run needs about {wants}: {shown_bytes(stays)} for checkpoints, the "
            "rest for the states of a stage while it is trained; make room there (distill gc lists what can be "
            "removed) or give another folder with --store"
        )
    return room


def described(room: Room) -> str:
    """Describe the disk space of a run."""
    most, stays, free = map(shown_bytes, (room.most, room.stays, room.free))
    line = f"disk: up to {most} while it runs, {stays} stay; {free} are free"
    if room.most > room.free:
        line += (
            ": the teacher's answers may leave no room for states; set execution.teacher_cache_gigabytes=0, or make "
            "room"
        )
    return line
