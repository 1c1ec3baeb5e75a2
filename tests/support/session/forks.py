"""`python -m pipeline` in processes forked from one that has imported the libraries, which is most of a start's time.

The libraries are those that read nothing that a test may set in the environment. Prefect, MLflow and this project are
imported by every program itself.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.support.paths import ROOT

_LIBRARIES = (
    "accelerate",
    "alembic",
    "datasets",
    "fastapi",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "sklearn.linear_model",
    "sqlalchemy.ext.asyncio",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
)


class Forker:
    """The process that has imported the libraries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="distill-forks-")
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.session.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.end)

    def ask(self, question: dict[str, Any]) -> int:
        """Send a request and return the answer: the id of a new process, or the exit code of one that has ended."""
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def new_pipe(self) -> str:
        """Return the path of a new named pipe."""
        with self._lock:
            self._number += 1
            path = str(Path(self._folder.name) / str(self._number))
        os.mkfifo(path)
        return path

    def end(self) -> None:
        """End it and remove its folder."""
        self._process.communicate()
        self._folder.cleanup()


@cache
def forker() -> Forker:
    """Return the forker of this process, started at the first call."""
    return Forker()


class Fork:
    """A forked `python -m pipeline`, as `subprocess.Popen` would show it."""

    stdout: IO[str]

    def __init__(self, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        self._forker, self._lock = forker(), threading.Lock()
        path = self._forker.new_pipe()
        self.returncode: int | None = None
        self.pid = self._forker.ask({"arguments": arguments, "env": env, "output": path})
        self._ended = os.pidfd_open(self.pid)
        self.stdout = open(path, encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("distill", timeout or 0.0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
                os.close(self._ended)
                self.returncode = self._forker.ask({"ended": self.pid})
            return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _serve() -> None:
    gc.disable()  # in vain among objects that stay
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    answers = os.dup(1)
    with open(0, "rb", buffering=0, closefd=False) as questions:  # no lines are read ahead that a fork would share
        while line := questions.readline():
            question = json.loads(line)
            if "ended" in question:
                answer = os.waitstatus_to_exitcode(os.waitpid(question["ended"], 0)[1])
            elif not (answer := os.fork()):
                os.close(answers)
                _become(**question)
            os.write(answers, b"%d\n" % answer)


def _become(arguments: list[str], env: dict[str, str], output: str) -> None:
    os.setsid()
    for number, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(output, os.O_WRONLY)), (2, 1)):
        os.dup2(descriptor, number)
        if descriptor > 2:
            os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # a library may have asked for it, and the environment may name another one
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.argv = ["distill", *arguments]
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _serve()
