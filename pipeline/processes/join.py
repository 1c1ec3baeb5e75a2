"""Lends this machine to a run of another: `distill join`."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.process.settings import read_settings
from pipeline.process.stopping import Stop, interrupted, stop_signals
from pipeline.processes.follow import Elsewhere
from pipeline.processes.machines import Board
from pipeline.processes.rank import NoStore
from pipeline.processes.wire import Request
from pipeline.store.checkpoints import CheckpointStore, open_store
from pipeline.store.files import disk_errors
from pipeline.store.open_runs import cache_in_use
from schemas.core.base import digest_of
from schemas.core.errors import ConfigError, DataError, DistillError, Interrupted, ProcessLost, ServiceError
from schemas.recipe.parts import Launch, host_and_port
from stages.device.launch import number_of_processes
from stages.device.network import address_towards
from stages.device.process_group import store_at
from stages.ports.plain import SilentProgress
from stages.ports.protocols import Ports
from stages.versions import installed_versions

T = TypeVar("T")
Tell = Callable[[str], None]

_LOOK_SECONDS = 0.5
_BEAT_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
"""Time in which a run answers its first question."""
_NO_RUN_SECONDS = 600.0
_NOT_COMPARED = ("python",)
"""Versions that may differ."""


class _Told(SilentProgress):
    """Shows notes, and no more."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def note(self, message: str) -> None:
        """Show a line."""
        self._tell(message)


class _Over(DistillError):
    """Raised when the run has ended an attempt."""


class Run:
    """The run at HOST:PORT, of which every question is answered in time, or the run is lost."""

    def __init__(self, rendezvous: str) -> None:
        self.rendezvous = rendezvous
        self.host, self.port = host_and_port(rendezvous)
        self.seconds = _ANSWER_SECONDS
        self.board = self._asked(self._connected, "something else than a run answers there")
        welcome = self.ask(lambda: self.board.get("run"))
        for _ in range(10):
            if welcome is not None:
                break
            time.sleep(_LOOK_SECONDS)
            welcome = self.ask(lambda: self.board.get("run"))
        if welcome is None:
            raise ServiceError(f"{rendezvous}: something else than a run answers there; check HOST:PORT")
        self.welcome: dict[str, Any] = welcome
        self.seconds = 60 * float(welcome["minutes"])

    def _connected(self) -> Board:
        return Board(store_at(self.host, self.port, self.seconds))

    def ask(self, question: Callable[[], T]) -> T:
        """Return the run's answer.

        Raises:
            ServiceError: it does not answer, or has ended without a word.
        """
        return self._asked(question, "the run has ended without a word; start it again there, then this command here")

    def _asked(self, question: Callable[[], T], otherwise: str) -> T:
        answers = SimpleQueue[tuple[T | None, Exception | None]]()

        def ask() -> None:
            try:
                answers.put((question(), None))
            except Exception as error:
                answers.put((None, error))

        # A machine that has vanished closes no connection, and torch would wait for ever.
        threading.Thread(target=ask, daemon=True).start()
        try:
            answer, error = answers.get(timeout=self.seconds)
        except Empty:
            raise ServiceError(f"{self.rendezvous}: no answer for {self.seconds:.0f} seconds") from None
        if error is not None:
            raise ServiceError(f"{self.rendezvous}: {otherwise}") from None
        return answer  # type: ignore[return-value]

    def beat(self, machine: int, has_left: threading.Event) -> None:
        """Tell the run that this machine lives, again and again, by a connection of its own, until it leaves."""
        board = self._connected()

        def tell() -> None:
            try:
                while not has_left.wait(_BEAT_SECONDS):
                    board.count(f"alive/{machine}", 1)
            except Exception:
                return  # the other connection will say so

        threading.Thread(target=tell, daemon=True).start()


def join(rendezvous: str, store: str | Path | None, processes: str | None, tell: Tell) -> None:
    """Train the stages of the run at HOST:PORT together with it, until it ends.

    Args:
        rendezvous: HOST:PORT, the run's `execution.launch.rendezvous`.
        store: the run's store; None for that of the environment.
        processes: number of this machine, or `auto`; None for the run's setting.
        tell: shows one line to the user.

    Raises:
        ConfigError: an argument is wrong, or this machine is refused.
        ServiceError: the run does not answer.
        Interrupted: the user asked to stop.
    """
    try:
        host_and_port(rendezvous)
    except ValueError as error:
        raise ConfigError(f"RENDEZVOUS: {error}") from None
    local = open_store(read_settings(store).store)
    with (
        interrupted("the run of another machine"),
        stop_signals(tell=tell) as stop,
        disk_errors(local.root),
        cache_in_use(local.root),
    ):
        _Machine(rendezvous, local, processes, stop, tell).work()


class _Machine:
    """This machine, in a run of another."""

    def __init__(self, rendezvous: str, store: CheckpointStore, processes: str | None, stop: Stop, tell: Tell):
        self.store, self.stop, self.tell = store, stop, tell
        _wait_for(rendezvous, tell)
        self.run = run = Run(rendezvous)
        self.address = address_towards(run.host, run.port)
        self.name = f"{socket.gethostname()} ({self.address})"
        number = run.welcome["processes"] if processes is None else _number(processes)
        self.processes = number_of_processes(Launch(processes=number))
        if reason := self._refusal():
            self._refuse(ConfigError(reason))
        self.number = run.ask(lambda: run.board.append("machine", self.name))
        self.has_left = threading.Event()
        run.beat(self.number, self.has_left)
        tell(f"joined the run at {rendezvous} with {self.processes} process{'es' * (self.processes > 1)}")

    def _refuse(self, error: DistillError) -> None:
        self.run.ask(lambda: self.run.board.append("refusal", f"{self.name}: {error}"))
        raise error

    def _refusal(self) -> str:
        """Return why this machine cannot work for the run; empty if it can."""
        welcome, versions = self.run.welcome, installed_versions()
        there: dict[str, str] = welcome["versions"]
        differing = [name for name in versions if name not in _NOT_COMPARED and versions[name] != there.get(name)]
        if differing:
            parts = [f"{name} {there.get(name)} there and {versions[name]} here" for name in differing]
            return f"the run at {self.run.rendezvous} has {', '.join(parts)}; install the same versions on both"
        here = self.store.root if self.store.remote is None else self.store.remote.address
        mark = welcome["mark"]
        same = (self.store.root / mark).exists() if mark is not None else str(here) == welcome["store"]
        if not same or (mark is not None and self.store.remote is not None):
            return (
                f"the run at {self.run.rendezvous} has the store {welcome['store']}, and this machine {here}, which is "
                "another: give with --store, on both, one object store, or one folder that both have"
            )
        return ""

    def work(self) -> None:
        """Train stages until the run has ended."""
        try:
            self._work()
        finally:
            self.has_left.set()

    def _leave(self) -> None:
        self.run.ask(lambda: self.run.board.put(f"left/{self.number}", True))

    def _work(self) -> None:
        last, board = 0, self.run.board
        while True:
            if self.run.ask(lambda: board.get("end")):
                self._leave()
                self.tell(f"the run at {self.run.rendezvous} has ended")
                return
            number = self.run.ask(lambda: board.count("stage"))
            if number > last and (stage := self.run.ask(lambda k=number: board.get(f"stage/{k}"))):  # type: ignore[misc]
                last = number
                try:
                    self._train(number, Request.model_validate_json(json.dumps(stage)))
                except _Over:
                    pass
                except ProcessLost as error:
                    self.tell(f"{error}; waiting for the run to try again")
            time.sleep(_LOOK_SECONDS)

    def _train(self, attempt: int, request: Request) -> None:
        """Train a stage, once."""
        # Imports transformers, for which the run waits as soon as this machine has joined it.
        from pipeline.processes.launch import Share, prepare, run_share

        board, config = self.run.board, request.config
        elsewhere = _TheRun(self.run, attempt, self.stop)
        elsewhere.failure()
        try:
            request = self._here(request)
            ports = self._ports(request)
            prepare(config, ports, has_parent=request.parent is not None)
        except DistillError as error:
            self._leave()
            self._refuse(error)
        ready = (self.number, self.processes)
        self.run.ask(lambda: board.append(f"ready/{attempt}", ready))
        while (go := self.run.ask(lambda: board.get(f"go/{attempt}"))) is None:
            elsewhere.failure()
            time.sleep(_LOOK_SECONDS)
        if (first := go["first"].get(str(self.number))) is None:
            return  # others were ready before
        meeting = f"tcp://{self.run.rendezvous}/{attempt}"
        others = go["size"] - self.processes
        self.tell(f"{config.name}: training with {others} process{'es' * (others > 1)} of other machines")
        try:
            run_share(Share(self.processes, first, go["size"], meeting, self.address), request, ports, elsewhere)
        except (_Over, ServiceError):
            raise
        except DistillError as error:
            report = (type(error).__name__, f"{self.name}: {error}")
            if self.stop():
                report = ("ProcessLost", f"{self.name} was stopped by its user; the last state is kept")
            self.run.ask(lambda: board.put(f"failure/{attempt}", report))
            raise
        self.tell(f"{config.name}: trained")

    def _here(self, request: Request) -> Request:
        """Return the request with the folders of this machine; raises DataError if what they hold is other data."""
        from stages.identity import stage_identity  # as above

        parent = request.parent
        if parent is not None:
            folder = self.store.folder_of(parent.stage, parent.digest)
            parent = parent.model_copy(update={"path": str(folder)})
        identity = stage_identity(request.config, parent.digest if parent else None)
        for part, there in request.identity.items():
            if (here := identity.get(part)) != there:
                raise DataError(
                    f"{request.config.name}: the run's {part} has the digest {_short(there)}, and this machine's "
                    f"{_short(here)}; give both the same files"
                )
        return request.model_copy(update={"parent": parent, "store": str(self.store.root)})

    def _ports(self, request: Request) -> Ports:
        config = request.config
        return Ports(
            sink=NoStore(),
            progress=_Told(self.tell),
            states=NoStore(),
            checkpoints=self.store.writer(config.name, request.digest),
            cache=self.store.cache,
            shielded=self.stop.shielded,
        )


class _TheRun(Elsewhere):
    """The run, as this machine follows it during an attempt."""

    number = 1

    def __init__(self, run: Run, attempt: int, stop: Stop) -> None:
        self._run, self._attempt, self._stop = run, attempt, stop

    def failure(self) -> DistillError | None:
        """Raise _Over if the run has ended the attempt, and Interrupted if the user of this machine asked to stop."""
        if self._stop():
            raise Interrupted("stopped; the run goes on as soon as another machine joins it")
        if self._run.ask(lambda: self._run.board.get(f"over/{self._attempt}")):
            raise _Over("the run has ended this attempt")
        return None


def _number(text: str) -> Any:
    """Return --processes as the field of a recipe.

    Raises:
        ConfigError: it is neither a number nor auto.
    """
    number = int(text) if text.isdecimal() else text
    try:
        return Launch.model_validate({"processes": number}).processes
    except ValidationError:
        raise ConfigError(f"--processes {text}: expected a whole number from 1 to 64, or auto") from None


def _short(part: object) -> str:
    return part[:16] if isinstance(part, str) else digest_of({"part": part})[:16]


def _wait_for(rendezvous: str, tell: Tell) -> None:
    """Wait until something listens at HOST:PORT.

    Raises:
        ServiceError: nothing does.
    """
    host, port = host_and_port(rendezvous)
    end, has_told = time.monotonic() + _NO_RUN_SECONDS, False
    while True:
        try:
            socket.create_connection((host, port), _ANSWER_SECONDS).close()
            return
        except OSError as error:
            if isinstance(error, socket.gaierror):
                raise ConfigError(f"{rendezvous}: {host} is unknown here ({error.strerror}); give an address") from None
            if time.monotonic() > end:
                raise ServiceError(
                    f"{rendezvous}: no run listens there ({error.strerror or error}); start it with: distill run … "
                    f"--set execution.launch.machines=2 --set execution.launch.rendezvous={rendezvous}"
                ) from None
            if not has_told:
                has_told = True
                tell(f"waiting for a run at {rendezvous}")
            time.sleep(_LOOK_SECONDS)
