"""SIGKILL at random moments over runs of all stages; every run has to end in the weights of one that nobody touched."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline.checkpoints import verify
from tests.end_to_end.processes import distill, running
from tests.toys import toy_recipe_dict

_LONGEST = 300.0


@dataclass
class Kills:
    """What a campaign found."""

    kills: int = 0
    runs: int = 0
    """That went to their end."""
    in_stage: int = 0
    """Kills that left a state of an unfinished stage behind."""
    resumed: int = 0
    """Continuations that went on inside a stage."""
    losses: list[str] = field(default_factory=list)
    """Whatever was lost, paid twice, or ended otherwise; empty if all is well."""


def kill_campaign(
    folder: Path, *, kills: int, seed: int = 0, note: Callable[[str], None] = lambda _: None
) -> Kills:
    """Kill so many times; the store begins anew whenever a run came to its end.

    Args:
        folder: an empty folder.
        kills: how many.
        seed: of the moments.
        note: told of each run's end.
    """
    recipe = _recipe(folder)
    found, moments = Kills(), random.Random(seed)
    length = _until_the_end(recipe, folder / "whole", folder / "whole.log")
    expected = weights(folder / "whole")
    while found.kills < kills:
        store, log = folder / f"store {found.runs}", folder / f"log-{found.runs}.txt"
        seen: dict[str, tuple[int, int]] = {}
        while _ended(recipe, store, log, moments.uniform(0, 0.6) * length) is None:
            found.kills += 1
            found.in_stage += bool(list(store.glob("states/*/step-*/manifest.json")))
            seen = _compared(store, seen, found)
            if found.kills >= kills:
                _until_the_end(recipe, store, log)
                break
        seen = _compared(store, seen, found)
        if (ended := weights(store)) != expected:
            wrong = [name for name in expected if ended.get(name) != expected[name]]
            found.losses.append(f"run {found.runs} ended in other weights: {wrong}")
        found.resumed += log.read_text(encoding="utf-8").count("going on from step")
        found.runs += 1
        note(f"{found.kills} kills, {found.runs} runs to their end, {len(found.losses)} losses")
        shutil.rmtree(store)
    return found


def visible(store: Path) -> list[Path]:
    """Checkpoints, without what a killed process left unfinished."""
    folders = sorted((store / "checkpoints").iterdir()) if store.is_dir() else []
    return [folder for folder in folders if not folder.name.startswith(".")]


def weights(store: Path) -> dict[str, str]:
    """SHA-256 of every weight of every finished stage, each file verified."""
    found = {}
    for folder in visible(store):
        for name, entry in verify(folder).files.items():
            if name.endswith(".safetensors"):
                found[f"{folder.name}/{name}"] = entry.sha256
    return found


def _compared(
    store: Path, seen: dict[str, tuple[int, int]], found: Kills
) -> dict[str, tuple[int, int]]:
    """What is visible is whole, and what was there before is still the very same file."""
    now = {}
    for folder in visible(store):
        try:
            verify(folder)
        except Exception as error:
            found.losses.append(f"kill {found.kills}: {error}")
            continue
        status = (folder / "manifest.json").stat()
        now[folder.name] = (status.st_ino, status.st_mtime_ns)
    for name, identity in seen.items():
        if now.get(name) != identity:
            found.losses.append(f"kill {found.kills}: {name} was made twice, or lost")
    return now


def _recipe(folder: Path) -> Path:
    content = toy_recipe_dict(folder / "in", steps=400)
    content["execution"] |= {"state_minutes": 0.005, "log_every": 20}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _until_the_end(recipe: Path, store: Path, log: Path) -> float:
    """Seconds that it took from its first words on."""
    taken = _ended(recipe, store, log, _LONGEST)
    if taken is None:
        raise RuntimeError(f"a run took more than {_LONGEST:.0f} s; its output is in {log}")
    return taken


def _ended(recipe: Path, store: Path, log: Path, seconds: float) -> float | None:
    """Run, and kill it so long after it began to look at models and data.

    Returns:
        Seconds from there to its end; None if it was killed before.
    """
    with running(*distill("run", recipe, "--store", store)) as run:
        run.wait_for("looking at models", _LONGEST)
        began, taken = time.monotonic(), None
        try:
            code = run.wait(seconds)
            taken = time.monotonic() - began
        except subprocess.TimeoutExpired:
            # The whole group: what the run started must not go on beside the next one.
            os.killpg(run.process.pid, signal.SIGKILL)
            run.wait()
            code = 0
    with log.open("a", encoding="utf-8") as file:
        file.write(run.output)
    if code:
        raise RuntimeError(f"a continuation failed with exit code {code}:\n{run.output[-3000:]}")
    return taken
