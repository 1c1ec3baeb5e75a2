"""SIGKILL at random moments of runs of all stages; every run must end with the weights of an undisturbed run.

The killed process is the command line itself, forked from a process that has imported everything. The moments therefore
fall into the run and not into the start of Python, and a kill costs seconds.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import verify
from pipeline.tracking.server import sync
from tests.support.paths import ROOT
from tests.support.toys import toy_recipe_dict

_LONGEST = 300.0
_STARTER = """
import os, sys
from pipeline.process.prefect_api import prepare_environment
prepare_environment()
import matplotlib.backends.backend_agg, mlflow.store.tracking.sqlalchemy_store, sklearn.linear_model
import pipeline.flow
from pipeline.command_line import main
print("imported", flush=True)
for line in sys.stdin:
    log, *sys.argv[1:] = line.rstrip("\\n").split("\\t")
    if (child := os.fork()) == 0:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.exit(main())
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Kills:
    """Result of a campaign."""

    kills: int = 0
    runs: int = 0
    """Runs that completed."""
    inside: Counter[str] = field(default_factory=Counter)
    """Kills that left a state of an unfinished stage behind, by stage."""
    resumed: int = 0
    """Runs that resumed inside a stage."""
    losses: list[str] = field(default_factory=list)
    """Anything that was lost, repeated, or ended with other weights."""

    def __str__(self) -> str:
        inside = ", ".join(f"{stage} {number}" for stage, number in sorted(self.inside.items()))
        return (
            f"{self.kills} kills in {self.runs} runs: {self.inside.total()} inside a stage ({inside}), {self.resumed} "
            "runs resumed inside a stage"
        )


class Starter:
    """A process that has imported everything and forks one run at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _STARTER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._message() == "imported"

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _message(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ended(self, recipe: Path, store: Path, log: Path, seconds: float) -> float | None:
        """`distill run RECIPE --store STORE`, killed so long after its first words.

        Returns:
            Seconds from its first words to its end; None if it was killed before.

        Raises:
            RuntimeError: it failed.
        """
        log.touch()
        before = log.stat().st_size
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, (log, "run", recipe, "--store", store))) + "\n")
        self._process.stdin.flush()
        child = int(self._message())
        limit = time.monotonic() + _LONGEST
        while log.stat().st_size == before and time.monotonic() < limit:
            time.sleep(0.005)
        began = time.monotonic()
        # The whole group: child processes of the run must not run beside the next one.
        killer = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL))
        killer.start()
        code = int(self._message())
        killer.cancel()
        if code == -signal.SIGKILL:
            return None
        if code:
            output = log.read_text(encoding="utf-8")[-3000:]
            raise RuntimeError(f"a continuation failed with exit code {code}:\n{output}")
        return time.monotonic() - began


def kill_campaign(folder: Path, *, cases: int, seed: int = 0, note: Callable[[str], None] = lambda _: None) -> Kills:
    """Kill runs at random moments; a completed run is followed by a new store.

    Args:
        folder: an empty folder.
        cases: number of kills.
        seed: of the moments.
        note: called with the end of each run.
    """
    recipe = _recipe(folder)
    tally, moments = Kills(), random.Random(seed)
    with Starter() as starter:
        length = _until_the_end(starter, recipe, folder / "whole", folder / "whole.log")
        expected = weights(folder / "whole")
        while tally.kills < cases:
            store, log = folder / f"store {tally.runs}", folder / f"log-{tally.runs}.txt"
            seen: dict[str, tuple[int, int]] = {}
            while starter.ended(recipe, store, log, moments.uniform(0, 0.4) * length) is None:
                tally.kills += 1
                tally.inside.update(_unfinished(store))
                seen = _compared(store, seen, tally)
                if tally.kills >= cases:
                    _until_the_end(starter, recipe, store, log)
                    break
            seen = _compared(store, seen, tally)
            if (ended := weights(store)) != expected:
                wrong = [name for name in expected if ended.get(name) != expected[name]]
                tally.losses.append(f"run {tally.runs} ended with different weights: {wrong}")
            tally.losses += [f"run {tally.runs}: {problem}" for problem in _tracking(store)]
            tally.resumed += log.read_text(encoding="utf-8").count("continuing from step")
            tally.runs += 1
            note(f"{tally.kills} kills, {tally.runs} runs to their end, {len(tally.losses)} losses")
            shutil.rmtree(store)
    return tally


def visible(store: Path) -> list[Path]:
    """Return the checkpoints, excluding unfinished ones of a killed process."""
    checkpoints = store / "checkpoints"
    folders = sorted(checkpoints.iterdir()) if checkpoints.is_dir() else []
    return [folder for folder in folders if not folder.name.startswith(".")]


def weights(store: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights of every finished stage, after verifying each file."""
    weights_of = {}
    for folder in visible(store):
        for name, entry in verify(folder).files.items():
            if name.endswith(".safetensors"):
                weights_of[f"{folder.name}/{name}"] = entry.sha256
    return weights_of


def _unfinished(store: Path) -> set[str]:
    """Return stages that have a state and no checkpoint."""
    folders = {path.parents[1].name for path in store.glob("states/*/step-*/manifest.json")}
    return {name.rsplit("-", 1)[0] for name in folders if not (store / "checkpoints" / name).exists()}


def _compared(store: Path, seen: dict[str, tuple[int, int]], tally: Kills) -> dict[str, tuple[int, int]]:
    """Check that visible checkpoints are complete, and that earlier ones are the same files."""
    now = {}
    for folder in visible(store):
        try:
            verify(folder)
        except Exception as error:
            tally.losses.append(f"kill {tally.kills}: {error}")
            continue
        status = (folder / "manifest.json").stat()
        now[folder.name] = (status.st_ino, status.st_mtime_ns)
    for name, identity in seen.items():
        if now.get(name) != identity:
            tally.losses.append(f"kill {tally.kills}: {name} was trained twice, or lost")
    return now


def _tracking(store: Path) -> list[str]:
    """Return what MLflow lacks after a run, or has twice."""
    report = sync(read_settings(store, {}), store / "points")
    problems = [report.failure] if report.failure else []
    problems += [f"MLflow lacks {run.left} of {run.name}" for run in report.runs if run.left]
    query = "SELECT key, step FROM metrics GROUP BY run_uuid, key, step, value HAVING count(*) > 1"
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        problems += [f"MLflow has {key} of step {step} twice" for key, step in database.execute(query)]
    return problems


def _recipe(folder: Path) -> Path:
    content = toy_recipe_dict(folder / "in", steps=200)
    content["execution"] |= {"state_minutes": 0.002, "log_every": 20}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _until_the_end(starter: Starter, recipe: Path, store: Path, log: Path) -> float:
    """Return the seconds from the first output to the end."""
    seconds = starter.ended(recipe, store, log, _LONGEST)
    if seconds is None:
        raise RuntimeError(f"a run took more than {_LONGEST:.0f} s; its output is in {log}")
    return seconds
