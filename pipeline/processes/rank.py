"""Program of one process of a stage, started by torchrun.

Its arguments are the request's file, a socket, the address at which all processes meet, the rank of the first process
of this machine, and the number of processes of all machines.

Process 0 writes states and the checkpoint, and reports metrics and notes. It imports neither Prefect nor MLflow.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.process.stopping import Stop
from pipeline.processes.wire import Connection, Request
from schemas.core.errors import DistillError
from stages.ports.plain import SilentProgress
from stages.ports.protocols import Ports, Progress, TrainingState

_LOOK_SECONDS = 0.2


class Lines:
    """Sink and progress of process 0: they tell the run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics."""
        self._connection.send({"log": [step, {name: float(value) for name, value in metrics.items()}]})

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Report the start of counted steps."""
        self._connection.send({"start": [description, total, done]})

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Report the number of finished steps."""
        self._connection.send({"advance": [done, {name: float(value) for name, value in metrics.items()}]})

    def phase(self, activity: str) -> None:
        """Report what is done now."""
        self._connection.send({"phase": [activity]})

    def note(self, message: str) -> None:
        """Report a line meant for the user."""
        self._connection.send({"note": [message]})


class NoStore:
    """States and metrics of the other processes, which keep none."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Drop the metrics: process 0 has the same."""

    def save(self, state: TrainingState) -> None:
        """Drop the state: process 0 has the same."""

    def latest(self) -> TrainingState | None:
        """Return None: process 0 sends the state it reads."""
        return None


def one_device(local_rank: int) -> None:
    """Show this process a GPU of its own, if there are any, before torch looks."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else []
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank] if local_rank < len(devices) else str(local_rank)


def ports_of(request: Request, connection: Connection, stop: Stop, meeting: str, first: int, size: int) -> Ports:
    """Return the outside of the stage in this process, which meets the others at the address `meeting`."""
    from pipeline.store.checkpoints import look_into_store
    from stages.device.process_group import ProcessGroup

    config, execution, store = request.config, request.execution, look_into_store(request.store)
    # Libraries that see them would form a group of their own, or on a CPU none, with each process alone in the world.
    names = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE")
    rank, number, *_ = (int(os.environ.pop(name)) for name in names)
    minutes, shards = execution.launch.timeout_minutes, execution.launch.teacher == "sharded"
    world = ProcessGroup(first + rank, size, meeting, minutes=minutes, local=(rank, number))
    lines, nothing, writes = Lines(connection), NoStore(), world.rank == 0
    progress: Progress = lines if writes else SilentProgress()
    return Ports(
        sink=lines if writes else nothing,
        progress=progress,
        states=store.states(config.name, request.digest, request.needs) if writes else nothing,
        checkpoints=store.writer(config.name, request.digest),
        cache=store.cache,
        mlflow_run_id=request.mlflow_run_id,
        log_every=execution.log_every,
        microbatch_tokens=execution.microbatch_tokens,
        state_minutes=execution.state_minutes if writes else math.inf,
        # All run a divided teacher equally often.
        gradient_share_every=execution.gradient_share_every if writes or shards else None,
        teacher_cache_bytes=round(execution.teacher_cache_gigabytes * 1e9),
        shards_teacher=shards,
        world=world,
        stop_requested=stop,
        shielded=stop.shielded,
    )


def train(request: Request, ports: Ports) -> dict[str, Any] | None:
    """Train the stage with the other processes; in process 0, keep it and return its result as JSON."""
    from stages.run import FINISH_SECONDS, PreparedStage

    stage = PreparedStage.of(request.config, request.parent, ports, request.identity)
    with ports.shielded(FINISH_SECONDS):
        result = stage.train(ports)
        if ports.world.rank:
            return None
        return stage.keep(result, ports).model_dump(mode="json")


def listen(connection: Connection, stop: Stop, stage: str) -> None:
    """Pass on the user's request to stop; end this process once the run has ended, or when it should have stopped."""
    try:
        while not stop():
            for _ in connection.received():
                stop.request("asked")
        threading.Thread(target=_end_late, args=(connection, stop, stage), daemon=True).start()
        while True:
            list(connection.received())
    except EOFError:
        os._exit(1)


def _end_late(connection: Connection, stop: Stop, stage: str) -> None:
    while stop.overdue() < 0:
        time.sleep(_LOOK_SECONDS)
    words = f"stopped during {stage}; finished stages and saved states are kept"
    connection.send({"error": ["Interrupted", words, ""]})
    os._exit(1)


def main(file: str, path: str, meeting: str, first: str, size: str) -> None:
    """Run this process's part of a stage."""
    rank = int(os.environ["LOCAL_RANK"])
    end = socket.socket(socket.AF_UNIX)
    end.connect(path)
    connection = Connection(end)
    connection.send({"rank": [rank]})
    one_device(rank)
    request = Request.model_validate_json(Path(file).read_text(encoding="utf-8"))
    stop = Stop()
    threading.Thread(target=listen, args=(connection, stop, request.config.name), daemon=True).start()
    try:
        ports = ports_of(request, connection, stop, meeting, int(first), int(size))
        connection.send({"done": [train(request, ports)]})
    except BaseException as error:
        kind = type(error).__name__ if isinstance(error, DistillError) else ""
        connection.send({"error": [kind, str(error) or repr(error), traceback.format_exc()]})
        sys.stderr.flush()
        os._exit(1)  # other threads, such as a group that waits for a lost process, must not keep this one


if __name__ == "__main__":
    main(*sys.argv[1:])
