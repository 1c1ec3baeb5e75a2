"""The `distill` program: the command line in a process that a key press ends without a traceback.

Only the standard library is imported here, so that a key press is handled while everything else is imported.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TOO_EARLY = "stopped before anything had begun"


def program() -> None:
    """Run the command line and exit with its code."""
    _open_closed_streams()
    code = [1]
    # Registered first, so called last.
    atexit.register(_leave, code)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _end_at_a_signal(1, f"error: {_TOO_EARLY}\n")
    from pipeline.command_line import main

    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        main()
        code[0] = 0
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        _end_at_a_signal(code[0])


def _open_closed_streams() -> None:
    """Lead standard streams that the shell closed (`>&-`) to nowhere.

    Otherwise the next file that is opened would get the free descriptor, and with it what others print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))


def _leave(code: list[int]) -> None:
    """Exit before the interpreter removes its signal handlers; a later signal would become the exit code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code[0])


def _end_at_a_signal(code: int, words: str = "") -> None:
    """Have a signal end the process at once: nothing needs saving, and libraries may take long to end their threads."""

    def end(_number: int, _frame: Any) -> None:
        with suppress(OSError):
            os.write(2, words.encode())
        os._exit(code)

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
