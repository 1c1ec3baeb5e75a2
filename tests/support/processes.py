"""Starts programs for tests, reads their output, and ends them by id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.session.forks import Fork


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A running program whose output is stored."""

    def __init__(self, process: subprocess.Popen[str] | Fork) -> None:
        self.lines: list[str] = []
        self.process = process
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, seconds: float = 240) -> None:
        """Wait until `text` is printed."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, f"ended before {text!r}:\n{self.output}"
            assert time.monotonic() < end, f"no {text!r} in {seconds} s:\n{self.output}"
            time.sleep(0.05)

    def wait(self, seconds: float = 200) -> int:
        """Wait for the program and return its exit code."""
        code = self.process.wait(seconds)
        self.reader.join(10)
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)

    def end(self) -> None:
        """End the program and its child processes by the id of its process group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                continue
        assert self.process.stdout is not None
        self.reader.join(10)
        self.process.stdout.close()


@contextmanager
def running(*command: str, env: dict[str, str] | None = None) -> Iterator[Process]:
    """Run a program for the length of the block."""
    program = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with _ended(Process(program)) as process:
        yield process


@contextmanager
def forked(*arguments: str | Path, env: dict[str, str] | None = None) -> Iterator[Process]:
    """Run `distill` for the length of the block, in a process that has imported its libraries already."""
    fork = Fork(tuple(map(str, arguments)), {**os.environ, **(env or {})})
    with _ended(Process(fork)) as process:
        yield process


@contextmanager
def _ended(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.end()


def distill(*arguments: str | Path) -> tuple[str, ...]:
    """Return the command line of `distill` in this interpreter."""
    return (sys.executable, "-m", "pipeline", *map(str, arguments))
