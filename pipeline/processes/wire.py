"""Request and messages between a run and the processes of a stage: JSON, one message a line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from schemas.core import errors
from schemas.core.base import Frozen
from schemas.core.errors import DistillError, ProcessLost
from schemas.recipe.parts import Execution
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef


class Request(Frozen):
    """Everything that a process of a stage is told when it starts."""

    config: StageConfig
    parent: CheckpointRef | None
    """Checkpoint that the student continues from; null for a fresh start."""
    identity: dict[str, Any]
    """Everything that the stage's digest covers."""
    digest: str
    """The stage's digest."""
    needs: tuple[str, ...]
    """Digests of the stages that it reads."""
    store: str
    """Folder of the store."""
    execution: Execution
    mlflow_run_id: str | None


def error_of(kind: str, message: str) -> DistillError:
    """Return the error of another process, by the name of its type; an unknown one is a lost process."""
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, DistillError):
        return known(message)
    return ProcessLost(message)


class Connection:
    """One end of the connection of a run and a process."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; raises OSError if the other end is closed."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def received(self) -> Iterator[dict[str, Any]]:
        """Wait for data and yield the messages that it completes.

        Raises:
            EOFError: the other end is closed.
        """
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
