"""Runs a stage in several processes and follows them: torchrun starts them, process 0 reports."""

from __future__ import annotations

import logging
import math
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.processes.wire import Connection, Request
from schemas.core import errors
from schemas.core.errors import DistillError, Interrupted, ProcessLost
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import located, members_of
from schemas.results.manifest import StageResult
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.ports.protocols import Ports
from stages.run import prepare_data
from stages.start import start_text

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_LAST_WORDS_SECONDS = 5.0
"""Time in which other processes may explain why one was lost."""
_END_SECONDS = 20.0
_SHOWN_LINES = 20


def run_in_processes(number: int, request: Request, ports: Ports) -> StageResult:
    """Run a stage in some processes of this machine.

    Args:
        number: of processes.
        request: the stage.
        ports: receives what process 0 reports, and is asked for the user's request to stop.

    Raises:
        Interrupted: a stop was requested; the training state was saved.
        ProcessLost: a process ended without a result; the last state is kept.
        DistillError: as `stages.run.run_stage`.
    """
    prepare(request.config, ports)
    with ports.shielded(math.inf), tempfile.TemporaryDirectory(prefix="distill-") as name:
        folder = Path(name)
        with socket.socket(socket.AF_UNIX) as listener, open(folder / "output", "wb") as output:
            listener.bind(str(folder / "socket"))
            listener.listen(number)
            (folder / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
            ports.progress.phase(f"starting {number} processes")
            launcher = subprocess.Popen(
                _command(number, folder),
                env=_environment(number),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the run, which asks the processes to stop
            )
            stage = _Stage(number, request.config.name, listener, launcher, ports)
            try:
                return stage.result()
            except ProcessLost:
                log.info("output of the processes:\n%s", _end_of(folder / "output"))
                raise
            finally:
                stage.end()


def prepare(config: StageConfig, ports: Ports) -> None:
    """Fetch the models and fill the cache with the data, so that no process of the stage waits for another's work."""
    folder = locate(config.pretrained)
    for teacher in members_of(located(config.teacher, ports.checkpoints.folder_of)):
        locate(teacher.model)
    tokenizer = load_tokenizer(folder, load_config(folder))
    prepare_data(config, folder, tokenizer, ports)
    if config.start_text is not None:
        start_text(config, tokenizer, ports.cache)


def _command(number: int, folder: Path) -> list[str]:
    options = ("--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={number}", "--max-restarts=0")
    program = ("-m", "pipeline.processes.rank", str(folder / "request.json"), str(folder / "socket"))
    return [sys.executable, "-P", "-m", "torch.distributed.run", *options, *program]


def _environment(number: int) -> dict[str, str]:
    """Return the processes' environment: cores shared out, and only this machine spoken to."""
    root = str(Path(__file__).parents[2])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {"OMP_NUM_THREADS": str(max(1, cores // number))}
    if sys.platform.startswith("linux"):
        defaults |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # No module comes from the folder that the run was started in.
    return {**defaults, **os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _end_of(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])


class _Stage:
    """The processes of a stage, followed until they end."""

    def __init__(
        self, number: int, name: str, listener: socket.socket, launcher: subprocess.Popen[bytes], ports: Ports
    ) -> None:
        self.number, self.name, self.listener, self.launcher, self.ports = number, name, listener, launcher, ports
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.connections: list[Connection] = []
        self.ranks: dict[Connection, int] = {}
        self.finished: dict[int, dict[str, Any] | None] = {}
        """Result by process; only that of process 0 is not None."""
        self.failures: dict[int, DistillError] = {}
        """Error by process."""
        self.give_up = math.inf
        self.asked = False

    def result(self) -> StageResult:
        """Follow the processes to their end."""
        while len(self.finished) < self.number:
            for key, _ in self.selector.select(_LOOK_SECONDS):
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    self._read(key.data)
            if self.launcher.poll() is not None and not self.selector.get_map().keys() - {self.listener.fileno()}:
                self._fail(-1, ProcessLost(f"the launcher of {self.name}'s processes has ended"))
            if self._is_over():
                raise self._cause()
            if self.ports.stop_requested() and not self.asked:
                self._ask_to_stop()
        return StageResult.model_validate(self.finished[0])

    def _is_over(self) -> bool:
        """Return whether the stage has failed, and nothing more is to be heard."""
        if isinstance(self.failures.get(0), DistillError) and not isinstance(self.failures[0], ProcessLost):
            return True
        is_heard = len(self.failures.keys() | self.finished.keys()) >= self.number
        return bool(self.failures) and (is_heard or time.monotonic() > self.give_up)

    def _accept(self) -> None:
        connection = Connection(self.listener.accept()[0])
        self.connections.append(connection)
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _read(self, connection: Connection) -> None:
        try:
            for message in connection.received():
                for kind, values in message.items():
                    self._take(connection, kind, values)
        except EOFError:
            self.selector.unregister(connection.socket)
            rank = self.ranks.get(connection, -1)
            if rank not in self.finished and rank not in self.failures:
                self._fail(
                    rank,
                    ProcessLost(
                        f"process {rank} of the {self.number} of {self.name} ended without a word, as one that was "
                        "killed by hand or because memory ran out; the last state is kept, and the same command "
                        "continues from it"
                    ),
                )

    def _take(self, connection: Connection, kind: str, values: list[Any]) -> None:
        """Act on a message."""
        progress = self.ports.progress
        reports: dict[str, Callable[..., None]] = {
            "log": self.ports.sink.log,
            "start": progress.start,
            "advance": progress.advance,
            "phase": progress.phase,
            "note": progress.note,
        }
        match kind:
            case "rank":
                self.ranks[connection] = values[0]
            case "done":
                self.finished[self.ranks[connection]] = values[0]
            case "error":
                self._fail(self.ranks[connection], self._error(*values))
            case _:
                reports[kind](*values)

    def _error(self, kind: str, message: str, trace: str) -> DistillError:
        if kind:
            error: DistillError = getattr(errors, kind)(message)
            return error
        log.info("a process of %s failed:\n%s", self.name, trace)
        return ProcessLost(f"a process of {self.name} failed: {message}; the last state is kept")

    def _fail(self, rank: int, error: DistillError) -> None:
        self.failures.setdefault(rank, error)
        # Process 0 may still be saving the state.
        if not isinstance(error, Interrupted):
            self.give_up = min(self.give_up, time.monotonic() + _LAST_WORDS_SECONDS)

    def _cause(self) -> DistillError:
        """Return the error that explains the others: not that another process was lost, if one says more."""
        if self.asked and 0 not in self.failures:
            return Interrupted(f"stopped during {self.name}; finished stages and saved states are kept")
        known = [error for error in self.failures.values() if not isinstance(error, ProcessLost)]
        silent = [error for error in self.failures.values() if "without a word" in str(error)]
        return [*known, *silent, *self.failures.values()][0]

    def _ask_to_stop(self) -> None:
        self.asked = True
        if len(self.ranks) < self.number:
            raise Interrupted(f"stopped during {self.name}; finished stages and saved states are kept")
        for connection in self.connections:
            with suppress(OSError):  # it has ended
                connection.send({"stop": []})

    def end(self) -> None:
        """End all processes: those of the stage when their connections close, then the launcher."""
        for connection in self.connections:
            connection.close()
        self.selector.close()
        for end in (self.launcher.terminate, self.launcher.kill):
            if len(self.finished) == self.number:
                with suppress(subprocess.TimeoutExpired):
                    self.launcher.wait(_END_SECONDS)
            if self.launcher.poll() is None:
                end()
                with suppress(subprocess.TimeoutExpired):
                    self.launcher.wait(_END_SECONDS)
