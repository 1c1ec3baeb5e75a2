"""Power cuts: unsynced data may be lost, partly lost or kept; every resumed run ends with the same weights.

POSIX promises little: the content of a file is that of its last sync, the names in a folder are those of the folder's
last sync, and any later write may or may not have arrived. `Disk` records the syncs of a running process and, at random
moments, builds folders as such a disk might show them after a cut.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from pipeline.store.checkpoints import open_store
from schemas.core.errors import DistillError
from schemas.recipe.expand import finished_teacher, stage_config, task_teachers, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef
from stages.identity import stage_digest
from stages.ports.plain import MetricList, SilentProgress
from stages.ports.protocols import Ports
from stages.run import run_stage
from tests.support.toys import toy_recipe_dict
from tests.torture.kills import weights

_CUTS_IN_A_RUN = 20

Names = dict[str, int]
"""What a folder holds: inode numbers by name."""


class Disk:
    """The content of a folder that survives a power cut, derived from the syncs of this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, Names] = {}
        self.events = 0
        self._lock = threading.Lock()
        self._cuts: dict[int, tuple[Path, random.Random]] = {}
        self._sync, self._replace = os.fsync, os.replace
        # The inode of a removed file must not be reused.
        self._held: dict[int, int] = {}

    def cut_at(self, event: int, into: Path, draw: random.Random) -> None:
        """At this event, write one possible content after the cut into `into`."""
        self._cuts[event] = (into, draw)

    @contextmanager
    def watched(self) -> Iterator[Disk]:
        """Record every sync and every rename inside the block as an event."""
        try:
            with mock.patch.object(os, "fsync", self._fsync), mock.patch.object(os, "replace", self._renamed):
                yield self
        finally:
            for handle in self._held.values():
                os.close(handle)

    def _fsync(self, handle: int) -> None:
        self._event()
        self._sync(handle)
        status = os.fstat(handle)
        with self._lock:
            if status.st_ino not in self._held:
                self._held[status.st_ino] = os.dup(handle)
            if stat.S_ISDIR(status.st_mode):
                path = os.readlink(f"/proc/self/fd/{handle}")
                self.names[status.st_ino] = _names(Path(path))
            else:
                self.contents[status.st_ino] = os.pread(handle, status.st_size, 0)
        self._event()

    def _renamed(self, source: str | Path, target: str | Path) -> None:
        self._event()
        self._replace(source, target)
        self._event()

    def _event(self) -> None:
        with self._lock:
            cut = self._cuts.pop(self.events, None)
            self.events += 1
            if cut is not None:
                self._lay_out(self.root, *cut)

    def _lay_out(self, folder: Path, into: Path, draw: random.Random) -> None:
        into.mkdir(parents=True)
        now = _names(folder)
        synced = self.names.get(folder.stat().st_ino, {})
        places = {inode: name for name, inode in now.items()}
        for name in sorted({*now, *synced}):
            inode = draw.choice([inode for inode in (now.get(name), synced.get(name)) if inode])
            if name not in synced and draw.random() < 0.5:
                continue  # created or renamed since, and the name was not written
            if name not in now and draw.random() < 0.5:
                continue  # removed since, and the removal was written
            # A renamed file has the content written under its new name.
            there = folder / places.get(inode, name)
            if there.is_dir():
                self._lay_out(there, into / name, draw)
            elif inode in self.contents or there.is_file():
                (into / name).write_bytes(self._content(there, inode, draw))

    def _content(self, path: Path, inode: int, draw: random.Random) -> bytes:
        synced = self.contents.get(inode)
        try:
            now = path.read_bytes() if path.stat().st_ino == inode else synced or b""
        except FileNotFoundError:
            now = synced or b""
        if now == synced:
            return now
        cut = draw.randrange(len(now) + 1)
        # Like on some file systems: the length was written, the bytes were not.
        zeros = now[:cut] + bytes(len(now) - cut)
        return draw.choice([now, now[:cut], zeros, synced or b""])


def _names(folder: Path) -> Names:
    names = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            names[entry.name] = entry.inode()
    return names


@dataclass
class Cuts:
    """Result of a campaign."""

    cuts: int = 0
    events: int = 0
    """Syncs and renames of one run, which are the possible moments."""
    finished: int = 0
    """Finished stages that the cuts left."""
    resumed: int = 0
    """Stages that resumed from a state."""
    losses: list[str] = field(default_factory=list)
    """Runs that failed to resume or ended with other weights, and finished stages that were lost."""

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts among {self.events} syncs and renames of a run: {self.finished} finished "
            f"stages left, {self.resumed} resumed from a state"
        )


def power_campaign(folder: Path, *, cases: int, seed: int = 0) -> Cuts:
    """Cut the power in runs of the teacher and two stages, and resume from what is left."""
    recipe = _recipe(folder)
    draw, tally = random.Random(seed), Cuts()
    expected, tally.events = _whole(recipe, folder)
    while tally.cuts < cases:
        moments = draw.sample(range(tally.events), min(_CUTS_IN_A_RUN, cases - tally.cuts))
        for moment, finished in _lefts(recipe, folder, moments, draw):
            left = folder / "left" / str(moment)
            if left.is_dir():  # this run may have had an event less
                _continue(recipe, left / "store", finished, expected, tally)
            tally.cuts += 1
        shutil.rmtree(folder / "left")
    return tally


def _recipe(folder: Path) -> Recipe:
    content = toy_recipe_dict(folder / "in", steps=12)
    content["teacher"]["task_model"]["training"]["duration"] = "40 steps"
    return Recipe.model_validate(content)


def _whole(recipe: Recipe, folder: Path) -> tuple[dict[str, str], int]:
    """Return the weights of an undisturbed run, and its number of events."""
    (folder / "whole").mkdir()
    with Disk(folder / "whole").watched() as disk:
        _run(recipe, folder / "whole" / "store")
    return weights(folder / "whole" / "store"), disk.events


def _lefts(recipe: Recipe, folder: Path, moments: list[int], draw: random.Random) -> list[tuple[int, set[str]]]:
    """Run, write one possible content after a cut at each moment to `left/MOMENT`, and record the finished stages."""
    running = folder / "running"
    running.mkdir()
    disk = Disk(running)
    for moment in moments:
        disk.cut_at(moment, folder / "left" / str(moment), random.Random(draw.random()))
    ends: dict[str, int] = {}
    with disk.watched():
        _run(recipe, running / "store", lambda name: ends.setdefault(name, disk.events))
    shutil.rmtree(running)
    return [(moment, {name for name in ends if ends[name] <= moment}) for moment in moments]


def _continue(recipe: Recipe, store: Path, finished: set[str], expected: dict[str, str], tally: Cuts) -> None:
    where = f"cut {tally.cuts}, event {store.parent.name}"
    progress = SilentProgress()
    try:
        reused = _run(recipe, store, progress=progress)
        tally.finished += len(reused)
        tally.resumed += sum("continuing from step" in note for note in progress.notes)
        if lost := finished - reused:
            tally.losses.append(f"{where}: {sorted(lost)} was finished and had to be run again")
        if weights(store) != expected:
            tally.losses.append(f"{where}: ended with different weights")
    except (DistillError, OSError, ValueError, KeyError) as error:
        tally.losses.append(f"{where}: {error}")


def _run(
    recipe: Recipe,
    folder: Path,
    finished: Callable[[str], object] = lambda _: None,
    progress: SilentProgress | None = None,
) -> set[str]:
    """Run teacher, `task_adaptive` and `task_specific` like a run does, and return the reused ones."""
    store, reused = open_store(folder), set()

    def kept(config: StageConfig, parent: CheckpointRef | None) -> CheckpointRef:
        digest = stage_digest(config, parent.digest if parent else None)
        there = store.find(config.name, digest)
        if there is not None:
            reused.add(config.name)
            return there[0]
        ports = Ports(
            sink=MetricList(),
            progress=progress or SilentProgress(),
            states=store.states(config.name, digest),
            checkpoints=store.writer(config.name, digest),
            cache=store.cache,
            state_minutes=1e-3,
            teacher_cache_bytes=10**9,
        )
        result = run_stage(config, parent, ports)
        finished(config.name)
        return result.checkpoint

    (teacher,) = teacher_configs(recipe)
    trained = kept(teacher, None)
    teachers = task_teachers(recipe, {"teacher": finished_teacher(f"{trained.path}/model", trained.digest)})
    student = None
    for stage in recipe.stages[2:]:
        student = kept(stage_config(recipe, stage, teachers), student)
    return reused
