"""One call in a process of its own, inside the flow run that this process is in.

Prefect's `ProcessPoolTaskRunner` is not used: in Prefect 3.8 an error of its engine in a worker process ends as an
`exit` whose news gets lost, and the run waits for ever; and one process that is killed takes the others' work along.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from prefect.context import FlowRunContext, hydrated_context, serialize_context
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipeline.logs import log_to_stderr, quiet_prefect
from pipeline.stopping import Stop, interrupted, stop_signals
from schemas.errors import ConfigError, DistillError, Interrupted

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_END_SECONDS = 30.0
Result = TypeVar("Result")
StopRequested = Callable[[], bool]


class ProcessLost(DistillError):
    """A process ended without a word."""


def in_own_process(
    call: Callable[..., Result], *arguments: object, stop_requested: StopRequested
) -> Result:
    """The result of `call(stop, *arguments)` in a new process, where `stop` is that one's own.

    Args:
        call: a function of a module.
        arguments: what can be pickled.
        stop_requested: whether somebody asked this process to stop, which is then asked of the other.

    Raises:
        ProcessLost: it was ended from outside.
        Interrupted: it was stopped.
        DistillError: as `call`; anything else that it raises becomes a RuntimeError, and its traceback is logged.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_begin, args=(theirs, _context(), call, arguments))
    process.start()
    theirs.close()
    asked = False
    while not ours.poll(_LOOK_SECONDS):
        if stop_requested() and not asked:
            asked = True
            process.terminate()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    _end(process)
    ours.close()
    if answer is not None:
        result, error = answer
        if error is not None:
            kind, text = error
            raise kind(text)
        return cast(Result, result)
    if asked:
        raise Interrupted("stopped; its last saved state is kept")
    raise ProcessLost(
        f"its process was ended from outside ({_said(process.exitcode)}), as happens where memory runs out; the same "
        "command goes on from its last state: lower execution.tasks_at_once before"
    )


def _end(process: BaseProcess) -> None:
    """It has nothing more to say; threads of libraries must not keep it."""
    process.join(_END_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _said(code: int | None) -> str:
    return f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name


def _context() -> dict[str, Any]:
    """Which flow run and task run this is, and the server that keeps them, which is not to be started once more."""
    here = FlowRunContext.get()
    assert here is not None, "not inside a flow run"
    with temporary_settings({PREFECT_API_URL: str(here.client.api_url)}):
        context = serialize_context()
    del context["flow_run_context"]["flow"], context["task_run_context"]["task"]
    context["task_run_context"]["parameters"] = {}
    return context


def _begin(
    answer: Connection, context: dict[str, Any], call: Callable[..., object], arguments: Any
) -> None:
    """What the new process does. What the terminal sends reaches it too, but is for the first one to answer."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(ConfigError):  # of the level, for the first one to say too
        log_to_stderr(instead=True)  # of Prefect's, which knows nothing of our credentials
    quiet_prefect()
    result: object = None
    error: tuple[type[Exception], str] | None = None
    try:
        with _stopped_too() as stop, hydrated_context(_with_flow(context)), interrupted("it"):
            result = call(stop, *arguments)
    except DistillError as refused:
        error = type(refused), str(refused)
    except Exception as unforeseen:
        log.exception("a task failed unexpectedly")
        error = RuntimeError, f"{type(unforeseen).__name__}: {unforeseen}"
    answer.send((result, error))


def _with_flow(context: dict[str, Any]) -> dict[str, Any]:
    """The context with what is not pickled."""
    from pipeline.fan_out import distil_task  # which imports this module
    from pipeline.flow import distill_flow

    context["flow_run_context"]["flow"] = distill_flow
    context["task_run_context"]["task"] = distil_task
    return context


@contextmanager
def _stopped_too() -> Iterator[Stop]:
    """Whether this process was asked to stop, which it also is when the first is gone: nobody waits for the result."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    with stop_signals() as stop:
        threading.Thread(target=watch, name="parent-watch", daemon=True).start()
        yield stop
