"""Damaged files in checkpoints, states and caches are detected before they are used."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.store.states import FolderStates
from schemas.core.errors import CheckpointError
from schemas.core.training import Training
from schemas.recipe.expand import TaskTeachers, stage_config
from stages.data.readers.files import read_file
from stages.ports.plain import plain_ports
from stages.ports.protocols import TrainingState
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.toys import make_trainer, toy_recipe, write_rows

Harm = Callable[[Path, random.Random], None]


@dataclass
class Flips:
    """Result of a campaign."""

    cases: Counter[str] = field(default_factory=Counter)
    """By what was done to what."""
    losses: list[str] = field(default_factory=list)
    """Damage that was not detected, not named, or that destroyed something else."""

    def __str__(self) -> str:
        kinds = "".join(f"\n  {number:5d}  {kind}" for kind, number in sorted(self.cases.items()))
        return f"{self.cases.total()} damaged files{kinds}\n"


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


HARMS: dict[str, Harm] = {
    "a bit turned": _turn,
    "cut short": _cut,
    "grown": _grow,
    "swapped": _swap,
    "removed": _remove,
}


def flip_campaign(folder: Path, *, cases: int, seed: int = 0) -> Flips:
    """Damage files, one at a time, in checkpoints, states, cached data and a teacher's answers in turn."""
    draw, tally = random.Random(seed), Flips()
    store = open_store(folder / "store")
    answers = Answers(folder / "answers")
    subjects: dict[str, Callable[[Harm, random.Random], tuple[str, str]]] = {
        "checkpoint": partial(_checkpoint, store),
        "state": partial(_states, folder / "states"),
        "cached data": partial(_cached, folder / "cached"),
        "teacher's answers": answers.try_one,
    }
    for case in range(cases):
        harm = draw.choice(sorted(HARMS))
        subject = list(subjects)[case % len(subjects)]
        name, problem = subjects[subject](HARMS[harm], draw)
        tally.cases[f"{subject}, {harm}"] += 1
        if problem:
            tally.losses.append(f"case {case}, {subject}, {harm}, {name}: {problem}")
    return tally


def _some_file(folder: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _checkpoint(store: CheckpointStore, harm: Harm, draw: random.Random) -> tuple[str, str]:
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


def _states(folder: Path, harm: Harm, draw: random.Random) -> tuple[str, str]:
    states = FolderStates(folder, "general", DIGEST)
    for step in (1, 2):
        tensors = {"weights": torch.full((64,), float(step)), "moments": torch.ones(8, 8)}
        states.save(TrainingState(step, tensors, {"tokens": 10.0 * step}))
    file = _some_file(folder / "step-00000002", draw)
    harm(file, draw)
    kept = FolderStates(folder, "general", DIGEST).latest()
    whole = (
        kept is not None
        and kept.step == 1
        and torch.equal(kept.tensors["weights"], torch.ones(64))
        and kept.numbers == {"tokens": 10.0}
    )
    shutil.rmtree(folder)
    return file.name, "" if whole else f"went on from {kept and kept.step}"


def _cached(folder: Path, harm: Harm, draw: random.Random) -> tuple[str, str]:
    """Check that rows read again after the damage equal those of the file."""
    source = folder / "rows.jsonl"
    texts = [f"row {number}" for number in range(40)]
    write_rows(source, [{"text_a": text} for text in texts])
    read_file(source, folder / "cache", "task.train")
    file = _some_file(folder / "cache", draw)
    harm(file, draw)
    again = read_file(source, folder / "cache", "task.train").rows["text_a"]
    shutil.rmtree(folder)
    return file.name, "" if list(again) == texts else "other rows were read"


class Answers:
    """A teacher's outputs for every row of a toy stage, and their values at the time of computation."""

    def __init__(self, folder: Path) -> None:
        recipe = toy_recipe(folder / "in")
        config = stage_config(recipe, recipe.stages[0], TaskTeachers())
        long = Training.model_validate(config.training.model_dump() | {"duration": "3 epochs"})
        trainer = make_trainer(
            config.model_copy(update={"training": long}), plain_ports(folder, teacher_cache_bytes=10**9)
        )
        trainer.teachers.fill_caches(trainer.batches, trainer.num_steps, trainer.ports, "general")
        (self.cache,) = trainer.teachers.caches
        self.batch = trainer.tokens.batch(np.arange(len(trainer.tokens)))
        self.whole = self._read()

    def _read(self) -> list[torch.Tensor]:
        outputs = self.cache.read(self.batch)
        noted = outputs.recording.attention.values()
        kept = [*outputs.hidden.values(), *(recorded.query for recorded in noted)]
        return [tensor.clone() for tensor in kept]

    def try_one(self, harm: Harm, draw: random.Random) -> tuple[str, str]:
        """Damage a file of the closed cache; the outputs must be the same after it is reopened."""
        file = _some_file(self.cache.folder, draw)
        self.cache.arrays.clear()
        harm(file, draw)
        for _ in self.cache.fill():
            pass
        pairs = zip(self._read(), self.whole, strict=True)
        same = all(torch.equal(actual, whole) for actual, whole in pairs)
        return file.name, "" if same else "other answers were read"
