"""Ctrl-C, SIGTERM and a closed terminal: the run ends within seconds, and what it has done is kept.

What is being made and has a state (a stage that trains) is shielded: it is asked to stop, saves its state and leaves.
Anything else is interrupted where it stands, for everything in the store is written so that a killed process harms
nothing. A second signal ends the process at once.

The operating system writes each signal's number into a socket, and a thread reads it there. So the answer to the key
press does not wait until the main thread, deep in a matrix product, comes back to Python.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from schemas.core.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Ignored unless somebody handles it, so that one that comes late does no harm.
_NUDGE = signal.SIGURG
_LOOK_SECONDS = 0.2
_NUDGE_SECONDS = 2.0
"""Between two interruptions, the later of which ends what still holds up the first."""
_UNWIND_SECONDS = 3.0
"""To close what is open, once a state is saved."""
_GIVE_UP_SECONDS = 5.0
"""After which a process ends that cannot be interrupted, such as one within a long call of a library."""


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop, and nothing was being made that has a state to save."""


class Stop:
    """Whether somebody asked to stop; made by `stop_signals`.

    Args:
        again: the command that goes on, for the last words of a process that cannot be interrupted.
        tell: says one line to a person; None says nothing.
    """

    def __init__(self, again: str | None = None, tell: Callable[[str], None] | None = None) -> None:
        self.again, self.tell = again, tell
        self.when_asked: list[Callable[[], None]] = []
        """Called once in another thread, when somebody asks."""
        self._asked = threading.Event()
        self._shields: list[float] = []
        self._since = -math.inf
        self._words = "stopped; finished stages and saved states are kept"
        self._terminals = [number for number in (1, 2) if os.isatty(number)]

    def __call__(self) -> bool:
        """Whether somebody asked; what is shielded asks this, saves its state and leaves."""
        return self._asked.is_set()

    @contextmanager
    def shielded(self, seconds: float = math.inf) -> Iterator[None]:
        """Within, whoever asks to stop waits until the block ends or leaves by itself, for so many seconds."""
        self._shields.append(seconds)
        self._since = time.monotonic()
        left = _UNWIND_SECONDS  # what an error on its way out of the block gets
        try:
            yield
            left = 0.0
        except Interrupted as error:
            self._words = str(error)
            raise
        finally:
            self._shields.pop()
            self._since = time.monotonic() + left

    def overdue(self) -> float:
        """For how many seconds the main thread should have been on its way out; negative while it need not be."""
        if not self():
            return -math.inf
        return time.monotonic() - self._since - (self._shields[-1] if self._shields else 0.0)

    def ask(self, number: signal.Signals) -> None:
        """Note that somebody asked, and say so."""
        saves = bool(self._shields)
        self._since = time.monotonic()
        self._asked.set()
        if number == signal.SIGHUP:
            self._leave_terminal()
        kept = "the state is being saved" if saves else "finished stages and saved states are kept"
        key = "Ctrl-C" if number == signal.SIGINT else number.name
        if self.tell is not None:
            with suppress(Exception):  # a pipe that nobody reads any more must not keep the state from being saved
                self.tell(f"stopping: {kept}; {key} once more ends it at once")
        for call in self.when_asked:
            with suppress(Exception):
                call()

    def _leave_terminal(self) -> None:
        """A closed terminal refuses whatever is written to it."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nothing, number)
        os.close(nothing)

    def end_at_once(self, code: int, words: str | None = None) -> NoReturn:
        """End this process without further ado; what it started notices and ends too."""
        with suppress(Exception):
            if 2 in self._terminals and os.isatty(2):
                os.write(2, b"\x1b[?25h")  # the bars have hidden the cursor
            if words:
                os.write(2, f"{words}\n".encode())
        os._exit(code)

    def last_words(self) -> str:
        """What was stopped where, and the command that goes on."""
        return f"{self._words}; go on with: {self.again}" if self.again else self._words


@contextmanager
def interrupted(what: str) -> Iterator[None]:
    """Turns `Stopped` into an error like others, which Prefect's tasks and flows take for the end of the run.

    Args:
        what: what was stopped.

    Raises:
        Interrupted: somebody asked to stop.
    """
    try:
        yield
    except Stopped:
        raise Interrupted(f"stopped during {what}; finished stages and saved states are kept") from None


_active: list[Stop] = []


@contextmanager
def stop_signals(again: str | None = None, tell: Callable[[str], None] | None = None) -> Iterator[Stop]:
    """Turns the signals that ask a process to end into a wish (see the module), until the block ends.

    Within another such block it is that one's `Stop`, whose handlers are put back in their place. Where a signal is
    ignored, as in a process that goes on when its terminal is closed, it stays so. Outside the main thread nothing
    can be asked.

    Args:
        again: the command that goes on.
        tell: says one line to a person.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    inner = bool(_active)
    stop = _active[-1] if inner else Stop(again, tell)
    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]

    def nudged(_number: int, _frame: Any) -> None:
        if stop.overdue() >= 0:
            raise Stopped

    def unraisable(what: Any) -> None:
        """Where Python lets no error out, as while it frees an object, the next interruption finds another place."""
        if not isinstance(what.exc_value, Stopped):
            before_hook(what)

    before_hook = sys.unraisablehook

    def noted(_number: int, _frame: Any) -> None:
        """The thread has its number already."""

    before = {number: signal.signal(number, noted) for number in handled}
    try:
        if inner:
            yield stop
            return
        before[_NUDGE] = signal.signal(_NUDGE, nudged)
        sys.unraisablehook = unraisable
        _active.append(stop)
        with _listener(stop, handled):
            yield stop
    finally:
        if not inner:
            _active.remove(stop)
            sys.unraisablehook = before_hook
        for number, handler in before.items():
            # On the command line nothing is left to be done but to end: a second signal does that at once.
            ends = stop() and again is not None and number in handled
            signal.signal(number, signal.SIG_DFL if ends else handler)


@contextmanager
def _listener(stop: Stop, handled: list[signal.Signals]) -> Iterator[None]:
    """The thread that reads the signals' numbers, for the length of the block."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(stop, ours, frozenset(handled)), name="stop-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()  # which ends the thread
        thread.join(_LOOK_SECONDS)
        if not thread.is_alive():
            ours.close()


def _listen(stop: Stop, ours: socket.socket, handled: frozenset[signal.Signals]) -> None:
    main = threading.main_thread().ident
    assert main is not None
    nudged = -math.inf
    while True:
        if select.select([ours], [], [], _LOOK_SECONDS if stop() else None)[0]:
            numbers = ours.recv(64)
            if not numbers:
                return
            for number in numbers:
                if number in handled:
                    _take(stop, signal.Signals(number))
        late = stop.overdue()
        if late >= _GIVE_UP_SECONDS:
            stop.end_at_once(1, f"error: {stop.last_words()}")
        if late >= 0 and time.monotonic() - nudged >= _NUDGE_SECONDS:
            nudged = time.monotonic()
            signal.pthread_kill(main, _NUDGE)


def _take(stop: Stop, number: signal.Signals) -> None:
    if stop():
        stop.end_at_once(128 + number)
    stop.ask(number)
    sys.stderr.flush()
