"""Hundreds of small flow runs in one store, several at a time: none fails, nothing is lost, and no process grows."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.tracking.run_files import read_points
from pipeline.tracking.server import unsent
from schemas.results.manifest import RunReport
from tests.support.processes import Process, running
from tests.support.toys import toy_recipe_dict

MOST_HANDLES = 0.02
"""Open files a run; one in fifty runs would be found."""
MOST_BYTES = 256 * 1024
"""Resident memory a run; below it lies what the allocator does not give back."""
_WARM_UP = 0.2
_STALLED = 300.0
_BAD = re.compile(r"locked|cannot be reached|refused|Traceback|ResourceWarning")


@dataclass
class Soak:
    """Result of a campaign."""

    runs: int = 0
    """That went to their end."""
    seconds: float = 0.0
    """Of all together."""
    seconds_per_run: float = 0.0
    """Median, as a worker sees it while the others run too."""
    slower_per_run: float = 0.0
    """Seconds by which a run is slower than the one before it in the same process; fitted."""
    trained: int = 0
    """Stages that were trained."""
    reused: int = 0
    """Stages that were there."""
    handles: int = 0
    """Open files of a worker at the end, at most."""
    handles_per_run: float = 0.0
    """By which they grow after a warm-up, at most over the workers."""
    bytes_per_run: float = 0.0
    """By which a worker's resident memory grows after a warm-up, at most over the workers."""
    threads_per_run: float = 0.0
    """As `handles_per_run`."""
    points: int = 0
    """Values that MLflow holds."""
    losses: list[str] = field(default_factory=list)
    """Runs that failed, growth, and whatever is missing or left over in the store or in MLflow."""


def soak_campaign(
    folder: Path, *, cases: int, at_once: int = 4, seed: int = 0, note: Callable[[str], None] = lambda _: None
) -> Soak:
    """Run the toy recipe in one store, from several processes at a time.

    Args:
        folder: an empty folder.
        cases: number of runs.
        at_once: number of processes.
        seed: of what the runs change, and so of which stages they share.
        note: told now and then how far it is.
    """
    tally = Soak()
    recipe, store = _recipe(folder), folder / "store"
    logs = [folder / f"worker-{number}.jsonl" for number in range(at_once)]
    began = time.monotonic()
    with ExitStack() as stack:
        workers = []
        for number, log in enumerate(logs):
            share = cases // at_once + (number < cases % at_once)
            words = (str(recipe), str(store), str(log), str(share), str(cases), f"{seed * 1000 + number}")
            command = (sys.executable, "-W", "default::ResourceWarning", "-m", "tests.torture.soak")
            workers.append(stack.enter_context(running(*command, *words)))
        _wait(workers, logs, cases, tally, note)
    tally.seconds = time.monotonic() - began
    lines = [[json.loads(line) for line in log.read_text("utf-8").splitlines()] for log in logs]
    growth_of(lines, tally)
    judge_growth(tally)
    look_at_store(open_store(store), [line for part in lines for line in part], tally)
    look_at_mlflow(store, tally)
    return tally


def _recipe(folder: Path) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_recipe_dict(folder / "in", steps=2)), encoding="utf-8")
    return path


def _wait(workers: list[Process], logs: list[Path], runs: int, tally: Soak, note: Callable[[str], None]) -> None:
    """Wait until every worker has ended, or no run has finished for a long time."""
    done, moved = 0, time.monotonic()
    while any(worker.process.poll() is None for worker in workers):
        time.sleep(0.5)
        now = sum(log.read_bytes().count(b"\n") for log in logs if log.exists())
        if now > done:
            if now // 25 > done // 25:
                note(f"{now} of {runs} runs")
            done, moved = now, time.monotonic()
        if time.monotonic() - moved > _STALLED:
            tally.losses.append(f"no run ended for {_STALLED:.0f} s, {done} had: " + workers[0].output[-500:])
            return
    for number, worker in enumerate(workers):
        if code := worker.wait():
            tally.losses.append(f"worker {number} ended with {code}: {worker.output[-1000:]}")
        bad = Counter(line.strip()[:300] for line in worker.lines if _BAD.search(line))
        tally.losses += [f"worker {number} printed {times} times: {line}" for line, times in bad.items()]


def growth_of(lines: list[list[dict[str, Any]]], tally: Soak) -> None:
    for number, part in enumerate(lines):
        for line in part:
            if "error" in line:
                tally.losses.append(f"worker {number}, run {line['number']}: {line['error']}")
        tally.runs += sum("report" in line for line in part)
        tally.handles = max([tally.handles, *(line["handles"] for line in part)])
        warm = part[round(_WARM_UP * len(part)) :]
        if len(warm) < 3:
            continue
        for name in ("handles", "bytes", "threads", "seconds"):
            slope = float(np.polyfit(range(len(warm)), [line[name] for line in warm], 1)[0])
            to = "slower_per_run" if name == "seconds" else f"{name}_per_run"
            setattr(tally, to, max(getattr(tally, to), slope))
    tally.seconds_per_run = float(np.median([line["seconds"] for part in lines for line in part]))


def judge_growth(tally: Soak) -> None:
    if tally.handles_per_run > MOST_HANDLES:
        tally.losses.append(f"{tally.handles_per_run:.2f} open files more with each run")
    if tally.bytes_per_run > MOST_BYTES:
        tally.losses.append(f"{tally.bytes_per_run / 1024:.0f} kB more with each run")


def look_at_store(store: CheckpointStore, lines: list[dict[str, Any]], tally: Soak) -> None:
    names = [line["report"] for line in lines if "report" in line]
    if sorted(store.list_reports()) != sorted(names) or len(set(names)) != len(names):
        tally.losses.append(f"{len(names)} runs ended, but there are {len(store.list_reports())} reports")
    rows = [row for name in set(names) for row in store.read_report(name).rows if row.checkpoint]
    tally.trained = sum(row.status == "ran" for row in rows)
    tally.reused = sum(row.status == "reused" for row in rows)
    folders = [path for path in (store.root / "checkpoints").iterdir() if path.name[0] != "."]
    if len(folders) != tally.trained:
        tally.losses.append(f"{tally.trained} stages were trained, but there are {len(folders)} checkpoints")
    for path in folders:
        try:
            verify(path)
        except Exception as error:
            tally.losses.append(f"{path.name}: {error}")
    left = [*store.root.rglob(".tmp-*"), *store.root.glob("states/*"), *store.root.rglob("*.unsent")]
    tally.losses += [f"left over: {path.relative_to(store.root)}" for path in left]


def look_at_mlflow(store: Path, tally: Soak) -> None:
    """Check that every run is in MLflow, has ended, and has as many values as its local file, in one query."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        status = dict(database.execute("SELECT run_uuid, status FROM runs"))
        parents = dict(database.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
        values = dict(database.execute("SELECT run_uuid, count(*) FROM metrics GROUP BY run_uuid"))
    ended = Counter(status.values())
    # Every run has one more for its student before the first stage.
    expected = 2 * tally.runs + tally.trained + tally.reused
    if ended != Counter(FINISHED=expected):
        tally.losses.append(f"MLflow has runs {dict(ended)}, not {expected} FINISHED ones")
    if len(status) - len(parents) != tally.runs or not set(parents.values()) <= set(status):
        tally.losses.append(f"MLflow has {len(status) - len(parents)} runs without a parent, not {tally.runs}")
    for path in sorted((store / "points").glob("*.jsonl")):
        kept = sum(len(point.metrics) for point in read_points(path))
        if unsent(path) or values.get(path.stem, 0) != kept:
            tally.losses.append(f"{path.stem}: MLflow has {values.get(path.stem, 0)} of {kept} values")
    tally.points = sum(values.values())


def _work(recipe: str, store: str, log: str, share: int, runs: int, seed: int) -> None:
    """Run the recipe repeatedly; the first stages are drawn from a few variants that all workers share."""
    from pipeline.process.prefect_api import check_server, prepare_environment

    prepare_environment()
    check_server(patience=120)
    from pipeline.flow import RunOptions, distill_flow

    draw = random.Random(seed)
    for number in range(share):
        changes = [
            f"stages.general.training.seed={draw.randrange(max(2, runs // 25))}",
            f"stages.task_specific.training.seed={seed * 10_000 + number}",
        ]
        line: dict[str, Any] = {"number": number}
        began = time.perf_counter()
        try:
            report: RunReport = distill_flow(recipe=recipe, overrides=changes, options=RunOptions(store=store))
            line["report"] = report.run
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {str(error)[:500]}"
        line["seconds"] = time.perf_counter() - began
        gc.collect()  # temporary use is not growth
        line |= _held()
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _held() -> dict[str, int]:
    """Return open files, resident bytes and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "handles": len(os.listdir("/proc/self/fd")),
        "bytes": pages * os.sysconf("SC_PAGESIZE"),
        "threads": len(os.listdir("/proc/self/task")),
    }


if __name__ == "__main__":
    _work(*sys.argv[1:4], *map(int, sys.argv[4:]))  # type: ignore[call-arg]
