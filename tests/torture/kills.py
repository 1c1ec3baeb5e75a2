"""SIGKILL at random moments over runs of all stages; every run has to end in the weights of one that nobody touched."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline.checkpoints import verify
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
        while _killed(_started(recipe, store, log), log, moments.uniform(0, 0.6) * length):
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


def weights(store: Path) -> dict[str, str]:
    """SHA-256 of every weight of every finished stage, each file verified."""
    found = {}
    for folder in sorted((store / "checkpoints").glob("*-*")):
        for name, entry in verify(folder).files.items():
            if name.endswith(".safetensors"):
                found[f"{folder.name}/{name}"] = entry.sha256
    return found


def _compared(
    store: Path, seen: dict[str, tuple[int, int]], found: Kills
) -> dict[str, tuple[int, int]]:
    """What is visible is whole, and what was there before is still the very same file."""
    now = {}
    for folder in sorted((store / "checkpoints").glob("*-*")):
        if folder.name.startswith("."):
            continue
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
    began = _started(recipe, store, log)
    if _killed(began, log, _LONGEST):
        raise RuntimeError(f"a run took more than {_LONGEST:.0f} s; its output is in {log}")
    return time.monotonic() - began.at


@dataclass
class _Run:
    process: subprocess.Popen[bytes]
    at: float
    """When it began to look at models and data: before that there is nothing to lose."""


def _started(recipe: Path, store: Path, log: Path) -> _Run:
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--store", str(store)]
    size = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
    end = time.monotonic() + _LONGEST
    while b"looking at models" not in log.read_bytes()[size:]:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"a run did not begin:\n{log.read_text(encoding='utf-8')[-3000:]}")
        time.sleep(0.02)
    return _Run(process, time.monotonic())


def _killed(run: _Run, log: Path, seconds: float) -> bool:
    """Kill a run so long after it began; False if it came to its end before."""
    try:
        code = run.process.wait(max(0.0, run.at + seconds - time.monotonic()))
    except subprocess.TimeoutExpired:
        # The whole group: what the run started must not go on beside the next one.
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        return True
    if code:
        said = log.read_text(encoding="utf-8")[-3000:]
        raise RuntimeError(f"a continuation failed with exit code {code}:\n{said}")
    return False
