"""Follows the processes of a stage on this machine until they end."""

from __future__ import annotations

import logging
import math
import selectors
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipeline.processes.wire import Connection, error_of
from schemas.core.errors import DistillError, Interrupted, ProcessLost
from stages.ports.protocols import Ports

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_LAST_WORDS_SECONDS = 5.0
"""Time in which other processes may explain why one was lost."""
_END_SECONDS = 20.0
_ELSEWHERE = -2
"""Key of the failure that another machine reports; -1 is the launcher's."""


class Elsewhere:
    """The other machines of a stage, as this one follows them; this class stands for none."""

    number = 0
    """Other machines."""

    def failure(self) -> DistillError | None:
        """Return what another machine reports as failed; raises a DistillError to end at once."""
        return None

    def silent(self) -> str:
        """Return the names of machines that have not been heard of; empty if there are none."""
        return ""


class Followed:
    """The processes of a stage on this machine, followed until they end."""

    def __init__(
        self,
        number: int,
        name: str,
        listener: socket.socket,
        launcher: subprocess.Popen[bytes],
        ports: Ports,
        elsewhere: Elsewhere,
    ) -> None:
        self.number, self.name, self.listener, self.launcher, self.ports = number, name, listener, launcher, ports
        self.elsewhere = elsewhere
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.connections: list[Connection] = []
        self.ranks: dict[Connection, int] = {}
        self.finished: dict[int, dict[str, Any] | None] = {}
        """Result by process of this machine; only that of the stage's process 0 is not None."""
        self.failures: dict[int, DistillError] = {}
        """Error by process."""
        self.give_up = math.inf
        self.asked = False

    def result(self) -> dict[str, Any] | None:
        """Follow the processes to their end; return what the first of this machine returned."""
        while len(self.finished) < self.number:
            for key, _ in self.selector.select(_LOOK_SECONDS):
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    self._read(key.data)
            if self.launcher.poll() is not None and not self.selector.get_map().keys() - {self.listener.fileno()}:
                self._fail(-1, ProcessLost(f"the launcher of {self.name}'s processes has ended"))
            if (failure := self.elsewhere.failure()) is not None:
                self._fail(_ELSEWHERE, failure)
            if self._is_over():
                raise self._cause()
            if self.ports.stop_requested() and not self.asked:
                self._ask_to_stop()
        return self.finished[0]

    def _is_over(self) -> bool:
        """Return whether the stage has failed, and nothing more is to be heard."""
        if isinstance(self.failures.get(0), DistillError) and not isinstance(self.failures[0], ProcessLost):
            return True
        # Another machine may be about to say why its processes are gone.
        wanted = self.number if self.elsewhere.number == 0 or _ELSEWHERE in self.failures else math.inf
        is_heard = len(self.failures.keys() | self.finished.keys()) >= wanted
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
            return error_of(kind, message)
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
        if not known and _ELSEWHERE not in self.failures and (machines := self.elsewhere.silent()):
            return ProcessLost(
                f"{self.name}: {machines} no longer answers; the last state is kept, and the same command continues "
                "from it"
            )
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
