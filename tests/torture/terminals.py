"""Key presses and signals at random moments of runs in separate terminals.

Each run has a pseudo-terminal and is the leader of its session, as in a user's window, and starts Prefect's temporary
server itself. It must acknowledge the stop at once, end within seconds with the command that resumes, leave no process
behind, and lose nothing: that command resumes, and every run ends with the weights of an undisturbed run.

When run as a program, this module is the process that has imported everything and forks one run at a time.
"""

from __future__ import annotations

import importlib
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

LONGEST_SECONDS = 10.0
"""From the key press to the end."""
AT_ONCE_SECONDS = 2.0
"""From the second key press to the end."""
SERVER_SECONDS = 5.0
"""From the end of a killed run to that of its server."""
KEYS = ("Ctrl-C", "SIGTERM", "SIGTERM to all", "hangup", "Ctrl-C twice", "SIGKILL")
_RUN_SECONDS = 300.0
_MARK = "DISTILL_TEST_TERMINAL"
_STYLES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ended:
    """How a run in a terminal ended."""

    code: int
    """Exit code; of a signal its number, negative."""
    seconds: float | None
    """From the (last) key press to the end; None where it ended before."""
    began: float
    """Seconds from its first words to the key press, or to the end."""
    output: str
    """What stood in the terminal, without colours."""
    left: tuple[int, ...]
    """Processes that were still there some seconds later."""


@dataclass
class Presses:
    """Result of a campaign."""

    keys: Counter[str] = field(default_factory=Counter)
    """Key presses that reached a run, by kind."""
    saved: int = 0
    """Runs that saved a state then."""
    runs: int = 0
    """Runs that completed."""
    slowest: float = 0.0
    """Longest time from a key press to the end, in seconds."""
    losses: list[str] = field(default_factory=list)
    """Anything that was slow, unreported, left behind or lost."""

    def __str__(self) -> str:
        keys = ", ".join(f"{key} {number}" for key, number in sorted(self.keys.items()))
        return (
            f"{self.keys.total()} key presses and signals ({keys}) in {self.runs} runs: {self.saved} saved a state and "
            f"said so, the slowest ended after {self.slowest:.1f} s"
        )


def press_campaign(
    folder: Path,
    *,
    cases: int,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
    keys: tuple[str, ...] = KEYS,
    patience: float = 1.0,
) -> Presses:
    """Press keys at random moments; a completed run is followed by a new store.

    Args:
        folder: an empty folder.
        cases: number of key presses.
        seed: of the moments.
        note: told of each run's end.
        keys: taken in turn.
        patience: times as long as allowed, for a machine that has other work.
    """
    from tests.torture.kills import weights

    recipe = _recipe(folder)
    tally, moments = Presses(), random.Random(seed)
    with Forker(folder / "prefect") as forker:
        whole = forker.run(recipe, folder / "whole", "", _RUN_SECONDS)
        if whole.code:
            raise RuntimeError(f"an undisturbed run failed:\n{whole.output[-3000:]}")
        expected, pressed = weights(folder / "whole"), 0
        while pressed < cases:
            store = folder / f"store {tally.runs}"
            ended = None
            while ended is None or ended.code:
                last = pressed >= cases
                key = "" if last else keys[pressed % len(keys)]
                ended = forker.run(recipe, store, key, moments.uniform(0, 0.9) * whole.began)
                if ended.seconds is not None:
                    pressed += 1
                    judge(tally, key, ended, patience)
                elif ended.code:
                    tally.losses.append(f"a continuation failed: {ended.output[-1000:]}")
                    return tally
            if (got := weights(store)) != expected:
                wrong = [name for name in expected if got.get(name) != expected[name]]
                tally.losses.append(f"run {tally.runs} ended with different weights: {wrong}")
            tally.runs += 1
            note(f"{pressed} key presses, {tally.runs} runs to their end, {len(tally.losses)} losses")
            shutil.rmtree(store)
    return tally


def judge(tally: Presses, key: str, ended: Ended, patience: float) -> None:
    """Record the problems of a run that was interrupted by a key press."""
    seconds = ended.seconds or 0.0
    tally.keys[key] += 1
    tally.slowest = max(tally.slowest, seconds)
    output, problems = ended.output, []
    allowed = {"Ctrl-C twice": AT_ONCE_SECONDS, "SIGKILL": AT_ONCE_SECONDS}.get(key, LONGEST_SECONDS)
    if seconds > allowed * patience:
        problems.append(f"it took {seconds:.1f} s")
    if ended.left:
        problems.append(f"{len(ended.left)} processes were left")
    if "Traceback" in output:
        problems.append(f"a traceback: {output[output.index('Traceback') :][:2000]!r}")
    asked = key in ("Ctrl-C", "SIGTERM", "SIGTERM to all")
    if asked and ended.code == 1 and "stopped before anything had begun" not in output:
        words = output.rpartition("stopping: ")[2]
        tally.saved += "state kept" in words
        if "stopping: " not in output or output.count("error: ") != 1 or "continue with: " not in words:
            problems.append(f"it did not say how to go on: {output[-500:]!r}")
    elif asked and ended.code not in (0, 1):
        problems.append(f"exit code {ended.code}: {output[-500:]!r}")
    tally.losses += [f"{key} after {ended.began:.1f} s, press {tally.keys.total()}: {problem}" for problem in problems]


class Forker:
    """A process that has imported everything and forks one run at a time, each into a separate terminal."""

    def __init__(self, home: Path) -> None:
        env = {**os.environ, "PREFECT_HOME": str(home), _MARK: str(home), "COLUMNS": "400"}
        env.pop("PREFECT_API_URL", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.terminals"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._message() == "imported"

    def __enter__(self) -> Forker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _message(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def run(self, recipe: Path, store: Path, key: str, seconds: float, words: str = "") -> Ended:
        """`distill run RECIPE --store STORE` with a key press.

        Args:
            recipe: a recipe.
            store: its store.
            key: one of `KEYS`; empty for none.
            seconds: from the words to the key press.
            words: what the terminal must show before; empty for its start.
        """
        arguments = ["run", str(recipe), "--store", str(store)]
        line = json.dumps([arguments, key, seconds, words])
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        code, pressed, began, output, left = self._message()
        return Ended(code, pressed, began, output, tuple(left))


def _recipe(folder: Path) -> Path:
    from tests.support.toys import toy_recipe_dict

    content = toy_recipe_dict(folder / "in", steps=100)
    content["execution"] |= {"state_minutes": 60, "log_every": 20}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _in_terminal(arguments: list[str], key: str, seconds: float, words: str) -> list[Any]:
    child, terminal = pty.fork()
    if child == 0:
        from pipeline.program import program

        sys.argv = ["distill", *arguments]
        program()
        sys.exit(0)
    output, began, pressed, again = b"", None, None, False
    if not words:
        began = time.monotonic()
    code = None
    while code is None:
        if terminal >= 0:
            output += _read(terminal)
        else:
            time.sleep(0.02)
        now = time.monotonic()
        if began is None and words.encode() in output:
            began = now
        if key and pressed is None and began is not None and now - began >= seconds:
            pressed = now
            terminal = _press(key, child, terminal)
        elif key == "Ctrl-C twice" and pressed is not None and not again and now - pressed > 0.5:
            pressed, again = now, True
            _press(key, child, terminal)
        ended, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
    end = time.monotonic()
    if terminal >= 0:
        output += _read(terminal)
        os.close(terminal)
    return [
        code,
        None if pressed is None else end - pressed,
        (pressed or end) - (began or end),
        _STYLES.sub(b"", output).decode(errors="replace"),
        _left(),
    ]


def _press(key: str, child: int, terminal: int) -> int:
    """Press the key; return the terminal, or -1 if it is closed."""
    match key:
        case "Ctrl-C" | "Ctrl-C twice":
            os.write(terminal, b"\x03")
        case "SIGTERM":
            os.kill(child, signal.SIGTERM)
        case "SIGTERM to all":
            os.killpg(child, signal.SIGTERM)
        case "hangup":
            os.close(terminal)
            return -1
        case "SIGKILL":
            os.kill(child, signal.SIGKILL)
    return terminal


def _read(terminal: int) -> bytes:
    """Return what was printed, in a bounded time: a run that trains may print without a pause."""
    read, end = b"", time.monotonic() + 0.2
    while select.select([terminal], [], [], 0.02)[0] and time.monotonic() < end:
        try:
            some = os.read(terminal, 65536)
        except OSError:  # nobody has it open any more
            break
        if not some:
            break
        read += some
    return read


def _left() -> list[int]:
    """Return other processes of this campaign that still exist after some seconds."""
    end = time.monotonic() + SERVER_SECONDS
    while (left := _marked()) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _marked() -> list[int]:
    mark = f"{_MARK}={os.environ[_MARK]}".encode()
    processes = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            marked = mark in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if marked:
            processes.append(int(process.name))
    return processes


def _serve() -> None:
    from pipeline.process.prefect_api import prepare_environment

    prepare_environment()

    for name in ("matplotlib.backends.backend_agg", "mlflow.store.tracking.sqlalchemy_store"):
        importlib.import_module(name)
    for name in ("sklearn.linear_model", "pipeline.flow"):
        importlib.import_module(name)
    print(json.dumps("imported"), flush=True)
    for line in sys.stdin:
        print(json.dumps(_in_terminal(*json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
