"""The other machines of a run, on which `distill join` runs, as the run sees them.

The run listens at `execution.launch.rendezvous`, with torch's TCPStore: text under keys, all of it JSON. Numbers are
those of attempts (K) and of machines (N), counted from 1.

    run         what a machine must have: versions, store
    machine     number of machines that have come; machine/N its name, alive/N grows while it lives
    left/N      a machine has left, as after it has heard of the run's end
    refusal     number of machines that were refused; refusal/I why
    stage       number of stages tried so far; stage/K its request
    ready/K     number of machines whose models and data are ready; ready/K/I its number and that of its processes
    go/K        number of all processes, and by machine the rank of its first
    failure/K   name and message of the error that ended a machine's part
    over/K      the attempt has ended
    end         the run has ended
    K/…         written by torch.distributed, through which the processes find each other
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.processes.follow import Elsewhere
from pipeline.processes.wire import Request, error_of
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.open_runs import OpenRun
from schemas.core.errors import ConfigError, DistillError, Interrupted
from schemas.recipe.parts import Launch, host_and_port
from stages.device.network import listen_at
from stages.ports.protocols import Ports
from stages.versions import installed_versions

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_LOOK_SECONDS = 0.2
_SILENT_SECONDS = 4.0
"""Time without a sign of life after which a machine is named as lost, once something has failed."""
_ABSENT_SECONDS = 20.0
"""Time without a sign of life after which a machine is not waited for."""
_SOON_SECONDS = 3.0
_LEAVE_SECONDS = 3.0


class Board:
    """JSON values under keys of a torch Store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, key: str, value: object) -> None:
        """Write a value."""
        self._store.set(key, json.dumps(value))

    def get(self, key: str) -> Any:
        """Return a value; None if there is none yet."""
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def count(self, key: str, more: int = 0) -> int:
        """Add to a counter, which begins at 0; return it."""
        return int(self._store.add(key, more))

    def append(self, key: str, value: object) -> int:
        """Count a value under a key and write it as `KEY/I`; return I."""
        number = self.count(key, 1)
        self.put(f"{key}/{number}", value)
        return number

    def appended(self, key: str, after: int = 0) -> list[Any]:
        """Return the values appended under a key, after the first some."""
        values = (self.get(f"{key}/{number}") for number in range(after + 1, self.count(key) + 1))
        return [value for value in values if value is not None]


class Machines:
    """The other machines of a run; made by `gathered_machines`."""

    def __init__(self, launch: Launch, store: CheckpointStore, record: OpenRun) -> None:
        from stages.device.process_group import store_at

        assert launch.rendezvous is not None
        self.launch, self.rendezvous = launch, launch.rendezvous
        with listen_at(self.rendezvous) as listener:
            self.address = str(listener.getsockname()[0])
            host, port = host_and_port(self.rendezvous)
            # torch itself would listen on all interfaces.
            store_here = store_at(host, port, 60 * launch.timeout_minutes, listener=listener.detach())
        self.board = Board(store_here)
        self._turn = threading.Lock()
        self._beats: dict[int, tuple[int, float]] = {}
        self.refusals: list[str] = []
        folder = store.remote is None
        welcome = {
            "versions": installed_versions(),
            "store": str(store.root) if store.remote is None else store.remote.address,
            "mark": str(record.path.relative_to(store.root)) if folder else None,
            "minutes": launch.timeout_minutes,
            "processes": launch.processes,
        }
        self.board.put("run", welcome)

    @contextmanager
    def attempt(self, request: Request, ports: Ports) -> Iterator[Attempt]:
        """Have a stage trained by all machines in the block; stages of a run take turns."""
        with self._turn:
            number = self.board.append("stage", request.model_dump(mode="json"))
            try:
                yield Attempt(self, number, request.config.name, ports)
            finally:
                self.board.put(f"over/{number}", True)

    def name(self, machine: int) -> str:
        """Return the name of a machine, as messages show it."""
        return str(self.board.get(f"machine/{machine}"))

    def unheard(self, machine: int) -> float:
        """Return the seconds since a machine's last sign of life."""
        beat, now = self.board.count(f"alive/{machine}"), time.monotonic()
        known, since = self._beats.get(machine, (None, now))
        if beat != known:
            self._beats[machine] = (beat, since := now)
        return now - since

    def refused(self) -> list[str]:
        """Return what machines were refused for, since the last call."""
        new: list[str] = self.board.appended("refusal", after=len(self.refusals))
        self.refusals += new
        return new

    def close(self) -> None:
        """Tell the machines that the run has ended, and give them a moment to hear it."""
        self.board.put("end", True)
        end = time.monotonic() + _LEAVE_SECONDS
        while time.monotonic() < end:
            here = [n for n in range(1, self.board.count("machine") + 1) if not self.board.get(f"left/{n}")]
            if all(self.unheard(machine) > _SILENT_SECONDS for machine in here):
                break
            time.sleep(_LOOK_SECONDS)


class Attempt(Elsewhere):
    """A stage that all machines train, once."""

    def __init__(self, machines: Machines, number: int, stage: str, ports: Ports) -> None:
        self._machines, self._number, self._stage, self._ports = machines, number, stage, ports
        self._chosen: list[int] = []
        self.number = machines.launch.machines - 1
        self.meeting = f"tcp://{machines.rendezvous}/{number}"

    def gather(self, processes: int) -> int:
        """Wait until the other machines are ready; return the number of all processes.

        Args:
            processes: number of processes of this machine.

        Raises:
            ConfigError: too few have come.
            Interrupted: a stop was requested.
        """
        board, launch = self._machines.board, self._machines.launch
        self._ports.progress.phase(f"waiting for {self.number} more machine{'s' * (self.number > 1)}")
        ready = self._ready(time.monotonic())
        size, firsts = processes, {}
        for machine, number in ready:
            firsts[machine] = size
            size += number
        self._chosen = list(firsts)
        board.put(f"go/{self._number}", {"size": size, "first": firsts})
        names = ", ".join(map(self._machines.name, self._chosen))
        self._ports.progress.note(
            f"{self._stage}: trained by {size} processes of {launch.machines} machines: this one, {names}"
        )
        return size

    def _ready(self, since: float) -> Sequence[tuple[int, int]]:
        """Wait for the other machines; return their numbers and that of their processes."""
        machines, board, has_told = self._machines, self._machines.board, False
        began = since
        while True:
            if self._ports.stop_requested():
                raise Interrupted(f"stopped before {self._stage} began; finished stages are kept")
            for reason in machines.refused():
                self._ports.progress.note(f"refused: {reason}")
            told = dict[int, int](board.appended(f"ready/{self._number}"))
            ready = [pair for pair in told.items() if machines.unheard(pair[0]) < _ABSENT_SECONDS]
            if len(ready) >= self.number:
                return ready[: self.number]
            now = time.monotonic()
            others = set(range(1, board.count("machine") + 1)) - told.keys()
            if any(machines.unheard(machine) < _ABSENT_SECONDS for machine in others):
                since = now  # it reads its data
            if now - since > 60 * machines.launch.timeout_minutes:
                raise ConfigError(self._too_few(1 + len(ready)))
            if now - began > _SOON_SECONDS and not has_told and not others:
                has_told = True
                self._ports.progress.note(
                    f"{self._stage}: {1 + len(ready)} of {machines.launch.machines} machines are here; on each other "
                    f"one: distill join {machines.rendezvous}"
                )
            time.sleep(_LOOK_SECONDS)

    def _too_few(self, number: int) -> str:
        launch = self._machines.launch
        return (
            f"execution.launch.machines: {launch.machines}, and {number} after {launch.timeout_minutes:g} minutes; "
            f"start on each other one: distill join {self._machines.rendezvous}, or train on this one alone with: "
            "--set execution.launch.machines=1"
        ) + "".join(f"; refused: {reason}" for reason in self._machines.refusals)

    def failure(self) -> DistillError | None:
        """Return the error that another machine reports."""
        self.silent()  # looks for signs of life
        report = self._machines.board.get(f"failure/{self._number}")
        return None if report is None else error_of(*report)

    def silent(self) -> str:
        """Return the names of the machines that have not been heard of."""
        lost = [machine for machine in self._chosen if self._machines.unheard(machine) > _SILENT_SECONDS]
        return " and ".join(map(self._machines.name, lost))


@contextmanager
def gathered_machines(launch: Launch, store: CheckpointStore, record: OpenRun) -> Iterator[Machines | None]:
    """Listen for other machines during the block; None if the run is one machine's.

    Raises:
        ConfigError: this machine cannot listen there.
    """
    if launch.machines == 1:
        yield None
        return
    machines = Machines(launch, store, record)
    try:
        yield machines
    finally:
        machines.close()
