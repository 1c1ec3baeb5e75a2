"""Members in processes of this machine, each with GPUs of its own."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.engines.request import PROGRAM
from schemas.core.errors import ConfigError, ProcessLost
from schemas.recipe.parts import Engine

_LOOK_SECONDS = 0.5
_SHOWN_LINES = 20


def shares_of(engine: Engine) -> list[tuple[str, ...] | None]:
    """Return the GPUs of each of the members that run at once, as CUDA_VISIBLE_DEVICES has them; None for no change.

    Raises:
        ConfigError: the machine has fewer GPUs.
    """
    each = engine.gpus_each
    if each == 0:
        return [() for _ in range(engine.at_once)]
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number == 0 and each is None:
        return [None] * engine.at_once
    each = each or 1
    if engine.at_once * each > number:
        raise ConfigError(
            f"execution.engine.at_once: {engine.at_once} runs at once with {each} GPU{'s' * (each > 1)} each, but this "
            f"machine shows {number} to torch; lower at_once or gpus_each, or check CUDA_VISIBLE_DEVICES"
        )
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = visible or [str(index) for index in range(number)]
    return [tuple(names[first * each : (first + 1) * each]) for first in range(engine.at_once)]


class OwnProcesses:
    """Runs members in processes of their own, as many at once as the engine says.

    Args:
        engine: the setting.
        stop: returns whether the user asked to stop; the processes are asked in turn, and save their states.
        tell: shows a line that a process printed.
    """

    def __init__(self, engine: Engine, stop: Callable[[], bool], tell: Callable[[str], None]) -> None:
        self.at_once, self.stop, self.tell = engine.at_once, stop, tell
        self._shares: queue.Queue[tuple[str, ...] | None] = queue.Queue()
        for share in shares_of(engine):
            self._shares.put(share)

    def run(self, name: str, request: str) -> str:
        """Run a member to its end and return its answer; call it in a thread for each member that runs at once.

        Raises:
            ProcessLost: the process ended without an answer.
        """
        with self._share() as share:
            return self.start(name, request, share)

    def start(self, name: str, request: str, share: tuple[str, ...] | None = None) -> str:
        """Start the process of a member, with the GPUs of `share` or all, and return its answer."""
        with tempfile.TemporaryDirectory(prefix="distill-") as folder:
            asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
            asked.write_text(request, encoding="utf-8")
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, str(asked), str(answer)],
                env=self._environment(share),
                stdin=subprocess.PIPE,  # which closes when this process ends, however it ends
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # a Ctrl-C is for this process, which asks the others
            )
            last = self._follow(process)
            if not answer.is_file():
                raise ProcessLost(
                    f"the process of {name} ended without a word (exit code {process.returncode}), as one that was "
                    "killed by hand or because memory ran out; its last state is kept, and the same command continues"
                    + "".join(f"\n{line}" for line in last)
                )
            return answer.read_text(encoding="utf-8")

    @contextmanager
    def _share(self) -> Iterator[tuple[str, ...] | None]:
        share = self._shares.get()
        try:
            yield share
        finally:
            self._shares.put(share)

    def _environment(self, share: tuple[str, ...] | None) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        given = {"OMP_NUM_THREADS": str(max(1, cores // self.at_once)), **os.environ, "PYTHONPATH": path}
        return given if share is None else {**given, "CUDA_VISIBLE_DEVICES": ",".join(share)}

    def _follow(self, process: subprocess.Popen[str]) -> list[str]:
        """Show what a process prints until it ends; return its last lines if it failed."""
        lines: list[str] = []

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line.rstrip("\n"))
                del lines[:-_SHOWN_LINES]
                self.tell(line.rstrip("\n"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        is_asked = False
        while True:
            try:
                process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if self.stop() and not is_asked:
                    process.send_signal(signal.SIGTERM)
                    is_asked = True
        reader.join(_LOOK_SECONDS)
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        process.stderr.close()
        return lines if process.returncode else []

    def __enter__(self) -> OwnProcesses:
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave nothing: every process has ended when `run` returns."""
