"""`distill gc` while runs start, reuse stages, finish and are killed: nothing that a run needs is removed.

Files in the store are dated back eight days as soon as they are written, so that age protects nothing. Runs do not
train here; they only use the store. In half of the cases the collector removes everything that is not needed now. In
the other half, with seven days, finished stages of a killed run must be available to the run that resumes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.store.garbage import find_garbage, remove_garbage
from pipeline.store.open_runs import OpenRun, open_run
from schemas.core.errors import DistillError
from schemas.results.manifest import Judgement, Row, RunReport
from stages.ports.protocols import TrainingState
from tests.support.manifests import manifest_of, write_model

DAY = 86400.0
_AT_ONCE = 3
_STAGES = 4
_PAUSE = 0.004


@dataclass
class Collected:
    """Result of a campaign."""

    runs: int = 0
    killed: int = 0
    trained: int = 0
    """Stages."""
    reused: int = 0
    removed: int = 0
    """Items that the collectors removed."""
    losses: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs completed and {self.killed} killed during gc: {self.trained} stages made, "
            f"{self.reused} reused, {self.removed} items removed"
        )


def collect_campaign(folder: Path, *, cases: int, seed: int = 0) -> Collected:
    """Simulate runs in one store, some concurrent, while collectors are active.

    Args:
        folder: an empty folder.
        cases: number of runs, killed ones included.
        seed: of every draw.
    """
    tally = Collected()
    for part, older_than in enumerate((0.0, 7 * DAY)):
        store, log = open_store(folder / f"store {part}"), folder / f"log {part}.jsonl"
        log.touch()
        share = cases // 2 + (cases % 2 if part else 0)
        collector = _forked(lambda store=store, at=older_than, log=log: _collect(store, at, log))
        try:
            _runs(store, log, share, seed + part, goes_on=part == 1)
        finally:
            os.kill(collector, signal.SIGTERM)
            if code := _ended(collector):
                tally.losses.append(f"the collector ended with {code}")
        _add_up(log, tally)
        _look_at(store, tally)
    return tally


def _runs(store: CheckpointStore, log: Path, cases: int, seed: int, *, goes_on: bool) -> None:
    draw, living, begun = random.Random(seed), [], 0
    while begun < cases or living:
        while begun < cases and len(living) < _AT_ONCE:
            variant, at = draw.randrange(max(2, cases // 4)), draw.random()
            moment = int(at * 3 * _STAGES) if draw.random() < 0.5 else None
            work = (store, log, f"{seed}-{variant}", moment)
            living.append((_forked(lambda work=work: _run(*work)), variant))
            begun += 1
        child, variant = living.pop(0)
        code = _ended(child)
        if code not in (0, -signal.SIGKILL):
            _say(log, loss=f"a run ended with {code}")
        if code == -signal.SIGKILL:
            _say(log, killed=1)
            if goes_on:
                _ended(_forked(lambda v=variant: _run(store, log, f"{seed}-{v}", None)))


def _run(store: CheckpointStore, log: Path, variant: str, killed_at: int | None) -> None:
    """The store's view of a run: it registers needs, looks up stages, trains and reports, or is killed."""
    moments = iter(range(1000))

    def pass_by() -> None:
        time.sleep(_PAUSE)
        if next(moments) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    digests = [
        hashlib.sha256(f"{variant if number > 1 else 'shared'}/{number}".encode()).hexdigest()
        for number in range(_STAGES)
    ]
    with open_run(store.root, "toy") as run:
        cached = store.cache / "files" / f"{variant}-{os.getpid()}"
        cached.mkdir(parents=True)
        _made_old(cached)
        run.needs(digests[:2])  # the others are known later, like those after a teacher is chosen
        rows = []
        for number, digest in enumerate(digests):
            parent = digests[number - 1] if number else None
            rows.append(_stage(store, log, run, digest, parent, pass_by))
            for earlier in digests[: number + 1]:
                verify(store.folder("teacher", earlier))
        if not cached.is_dir():
            _say(log, loss=f"{cached.name} went out of the cache of a living run")
        pass_by()
        report = store.write_report(
            RunReport(run="toy", recipe="toy", task=None, rows=tuple(rows), seconds=1.0, store=str(store.root))
        )
        _made_old(store.root / "runs" / f"{report.run}.json")
    _say(log, runs=1)


def _stage(
    store: CheckpointStore, log: Path, run: OpenRun, digest: str, parent: str | None, pass_by: Callable[[], None]
) -> Row:
    run.needs([digest])
    pass_by()
    with store.lock("teacher", digest):
        stored = store.find("teacher", digest)
        if stored is not None:
            checkpoint = stored[0]
            _say(log, reused=1)
        else:
            states = store.states("teacher", digest, [parent] if parent else [])
            states.save(TrainingState(step=1, tensors={}, numbers={}))
            _made_old(states.folder)
            pass_by()
            if states.latest() is None:
                _say(log, loss=f"the state of {digest[:8]} is gone while its stage is made")
            writer = store.writer("teacher", digest)
            checkpoint = writer.commit(manifest_of(digest, parent_digest=parent), write_model)
            _made_old(Path(checkpoint.path))
            _say(log, made=digest)
    pass_by()
    judgement = Judgement(accuracy=0.5)
    return Row(name="stage", kind="stage", status="ran", judgement=judgement, checkpoint=checkpoint)


def _collect(store: CheckpointStore, older_than: float, log: Path) -> None:
    """Remove garbage repeatedly, until SIGTERM."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    while not told:
        gone = remove_garbage(store, find_garbage(store, older_than=older_than))
        _say(log, removed=len(gone.pieces))
        time.sleep(_PAUSE)


def _add_up(log: Path, tally: Collected) -> None:
    digests: list[str] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            if name == "loss":
                tally.losses.append(value)
            elif name == "made":
                digests.append(value)
            else:
                setattr(tally, name, getattr(tally, name) + value)
    tally.trained += len(digests)
    # With seven days no stage may be removed, so none is trained twice.
    if "log 1" in log.name:
        tally.losses += [
            f"{digest[:8]} was trained {digests.count(digest)} times"
            for digest in set(digests)
            if digests.count(digest) > 1
        ]


def _look_at(store: CheckpointStore, tally: Collected) -> None:
    """Verify the checkpoints of all reports."""
    for name in store.list_reports():
        for row in store.read_report(name).rows if name else ():
            try:
                verify(Path(row.checkpoint.path)) if row.checkpoint else None
            except DistillError as error:
                tally.losses.append(f"{name}: {error}")


def _made_old(path: Path) -> None:
    then = time.time() - 8 * DAY
    for file in (*path.rglob("*"), path):
        with suppress(FileNotFoundError):
            os.utime(file, (then, then), follow_symlinks=False)


def _say(log: Path, **fields: object) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(handle, (json.dumps(fields) + "\n").encode())
    os.close(handle)


def _forked(work: Callable[[], None]) -> int:
    """Do the work in a child process, without exit handlers."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)
    return child


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
