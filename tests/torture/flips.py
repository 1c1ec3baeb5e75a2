"""A byte turned, a file cut short, emptied, swapped or removed in checkpoints and states: found before it is used."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.checkpoints import CheckpointStore, open_store, verify
from pipeline.states import FolderStates
from schemas.errors import CheckpointError
from stages.ports import TrainingState
from tests.fakes import DIGEST, manifest_of, write_model


@dataclass
class Flips:
    """What a campaign found."""

    cases: Counter[str] = field(default_factory=Counter)
    """By what was done to what."""
    losses: list[str] = field(default_factory=list)
    """Damage that was not found, or not named, or that took something else along."""


def _turn(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def _grow(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randint(1, 64)))


def _swap(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(path.stat().st_size))


def _remove(path: Path, _: random.Random) -> None:
    path.unlink()


HARMS: dict[str, Callable[[Path, random.Random], None]] = {
    "a bit turned": _turn,
    "cut short": _cut,
    "grown": _grow,
    "swapped": _swap,
    "removed": _remove,
}


def flip_campaign(folder: Path, *, cases: int, seed: int = 0) -> Flips:
    """Harm so many files, one at a time, in checkpoints and in states by turns."""
    draw, found = random.Random(seed), Flips()
    store = open_store(folder / "store")
    for case in range(cases):
        harm = draw.choice(sorted(HARMS))
        try_one = _checkpoint if case % 2 else _states
        name, problem = try_one(store, folder / "states", HARMS[harm], draw)
        found.cases[f"{'checkpoint' if case % 2 else 'state'}, {harm}"] += 1
        if problem:
            found.losses.append(f"case {case}, {harm}, {name}: {problem}")
    return found


def _some_file(folder: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _checkpoint(
    store: CheckpointStore, _: Path, harm: Callable[..., None], draw: random.Random
) -> tuple[str, str]:
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    file = _some_file(folder, draw)
    harm(file, draw)
    name = file.relative_to(folder).as_posix()
    try:
        verify(folder)
        problem = "not found"
    except CheckpointError as error:
        named = name in str(error) or "manifest" in str(error)
        problem = "" if named else f"not named: {error}"
    shutil.rmtree(folder)
    return name, problem


def _states(
    _: CheckpointStore, folder: Path, harm: Callable[..., None], draw: random.Random
) -> tuple[str, str]:
    states = FolderStates(folder)
    for step in (1, 2):
        tensors = {"weights": torch.full((64,), float(step)), "moments": torch.ones(8, 8)}
        states.save(TrainingState(step, tensors, {"tokens": 10.0 * step}))
    file = _some_file(folder / "step-00000002", draw)
    harm(file, draw)
    kept = FolderStates(folder).latest()
    whole = (
        kept is not None
        and kept.step == 1
        and torch.equal(kept.tensors["weights"], torch.ones(64))
        and kept.numbers == {"tokens": 10.0}
    )
    shutil.rmtree(folder)
    return file.name, "" if whole else f"went on from {kept and kept.step}"
