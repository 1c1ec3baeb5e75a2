"""Ctrl-C, SIGTERM and a closed terminal: the run ends within seconds, and its results so far are kept.

A stage that trains has a state, so it is shielded: it is asked to stop, saves its state and returns. Anything else is
interrupted at once, since the store is written so that a killed process does no harm. A second signal ends the process
immediately.

The operating system writes each signal's number into a socket, from which a thread reads it. So the user is answered
before the main thread, deep in a matrix product, returns to Python.
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
# Ignored by default, so that a late one does no harm.
_NUDGE = signal.SIGURG
_LOOK_SECONDS = 0.2
_NUDGE_SECONDS = 2.0
"""Time between two interruptions; the second ends code that swallowed the first."""
_UNWIND_SECONDS = 3.0
"""Time to close files and connections once a state is saved."""
_GIVE_UP_SECONDS = 5.0
"""Time after which a process ends that cannot be interrupted, as within a long call of a library."""


class Stopped(KeyboardInterrupt):
    """Raised in the main thread when the user asks to stop outside a shielded block."""


class Stop:
    """The user's request to stop; made by `stop_signals`.

    Args:
        again: the command that continues the run, for the last message of a process that cannot be interrupted.
        tell: shows one line to the user; None shows nothing.
    """

    def __init__(self, again: str | None = None, tell: Callable[[str], None] | None = None) -> None:
        self.again, self.tell = again, tell
        self.when_asked: list[Callable[[], None]] = []
        """Called once in another thread when the user asks."""
        self.wake: Callable[[], None] = lambda: None
        """Has the thread that reads signals look at this request."""
        self.is_signalled = False
        self._asked = threading.Event()
        self._shields: list[float] = []
        self._since = -math.inf
        self._words = "stopped; finished stages and saved states are kept"
        self._terminals = [number for number in (1, 2) if os.isatty(number)]

    def __call__(self) -> bool:
        """Return whether the user asked; shielded code checks this, saves its state and returns."""
        return self._asked.is_set()

    @contextmanager
    def shielded(self, seconds: float = math.inf) -> Iterator[None]:
        """Let the block end by itself within that time before a request to stop interrupts it."""
        self._shields.append(seconds)
        self._since = time.monotonic()
        left = _UNWIND_SECONDS  # for an error on its way out of the block
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
        """Seconds since the main thread should have begun to unwind; negative before that."""
        if not self():
            return -math.inf
        return time.monotonic() - self._since - (self._shields[-1] if self._shields else 0.0)

    def ask(self, number: signal.Signals) -> None:
        """Record a signal's request and answer the user."""
        self.is_signalled = True
        if number == signal.SIGHUP:
            self._leave_terminal()
        key = "Ctrl-C" if number == signal.SIGINT else number.name
        self._ask("stopping", f"; {key} once more ends it at once")

    def request(self, reason: str) -> None:
        """Record a request from elsewhere, such as Prefect's page; a first signal after it still ends nothing."""
        if not self():
            self._ask(f"{reason}, stopping", "")
            self.wake()

    def _ask(self, words: str, more: str) -> None:
        saves = bool(self._shields)
        self._since = time.monotonic()
        self._asked.set()
        kept = "the state is being saved" if saves else "finished stages and saved states are kept"
        if self.tell is not None:
            with suppress(Exception):  # a closed pipe must not keep the state from being saved
                self.tell(f"{words}: {kept}{more}")
        for call in self.when_asked:
            with suppress(Exception):
                call()

    def _leave_terminal(self) -> None:
        """Write to /dev/null from now on, since a closed terminal refuses all output."""
        null = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(null, number)
        os.close(null)

    def end_at_once(self, code: int, words: str | None = None) -> NoReturn:
        """End this process at once; the processes that it started notice and end too."""
        with suppress(Exception):
            if 2 in self._terminals and os.isatty(2):
                os.write(2, b"\x1b[?25h\r\n")  # the display has hidden the cursor, and ends without a line break
            if words:
                os.write(2, f"{words}\n".encode())
        os._exit(code)

    def last_words(self) -> str:
        """Description of the stopped work, and the command that continues it."""
        return f"{self._words}; continue with: {self.again}" if self.again else self._words


@contextmanager
def interrupted(what: str) -> Iterator[None]:
    """Turn `Stopped` into `Interrupted`, an error that ends Prefect's tasks and flows; `what` was stopped."""
    try:
        yield
    except Stopped:
        raise Interrupted(f"stopped during {what}; finished stages and saved states are kept") from None


_active: list[Stop] = []


@contextmanager
def stop_signals(again: str | None = None, tell: Callable[[str], None] | None = None) -> Iterator[Stop]:
    """Handle the signals that ask a process to end (see the module) during the block.

    A nested block yields the `Stop` of the outer one and installs its handlers again. A signal that is ignored, as in a
    process that outlives its terminal, stays ignored. Outside the main thread no signal is handled.

    `again` is the command that continues the run; `tell` shows one line to the user.
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
        """Drop a `Stopped` that Python cannot raise, as while it frees an object; the next one is raised elsewhere."""
        if not isinstance(what.exc_value, Stopped):
            before_hook(what)

    before_hook = sys.unraisablehook

    before = {number: signal.signal(number, _leave_to_listener) for number in handled}
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
            # The command line only has to exit now, so a second signal ends it at once.
            ends = stop() and again is not None and number in handled
            signal.signal(number, signal.SIG_DFL if ends else handler)


def _leave_to_listener(_number: int, _frame: Any) -> None:
    """Do nothing: the thread reads the signal's number from the socket."""


@contextmanager
def _listener(stop: Stop, handled: list[signal.Signals]) -> Iterator[None]:
    """Run the thread that reads the signals' numbers during the block."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    stop.wake = lambda: writer.sendall(b"\0")
    thread = threading.Thread(target=_listen, args=(stop, reader, frozenset(handled)), name="stop-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # which ends the thread
        thread.join(_LOOK_SECONDS)
        if not thread.is_alive():
            reader.close()


def _listen(stop: Stop, reader: socket.socket, handled: frozenset[signal.Signals]) -> None:
    main = threading.main_thread().ident
    assert main is not None
    nudged = -math.inf
    while True:
        if select.select([reader], [], [], _LOOK_SECONDS if stop() else None)[0]:
            numbers = reader.recv(64)
            if not numbers:
                return
            for number in numbers:
                if number in handled and stop.is_signalled:
                    stop.end_at_once(128 + number)
                elif number in handled:
                    stop.ask(signal.Signals(number))
                    sys.stderr.flush()
        late = stop.overdue()
        if late >= _GIVE_UP_SECONDS:
            stop.end_at_once(1, f"error: {stop.last_words()}")
        if late >= 0 and time.monotonic() - nudged >= _NUDGE_SECONDS:
            nudged = time.monotonic()
            signal.pthread_kill(main, _NUDGE)
