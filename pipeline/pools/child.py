"""A stage's flow run on a work pool: started, or found, and followed to its end."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.pools.registered import has_worker, registered
from schemas.core import errors
from schemas.core.errors import DistillError, Interrupted, ProcessLost, ServiceError
from stages.ports.protocols import Progress

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

_LOOK_SECONDS = 2.0
_SIGNS_SECONDS = 15.0
"""Time between two looks for workers and signs of life."""
_END_SECONDS = 20.0
"""Time that a stage has to save its state when this run is stopped; a worker gives the run itself 30 seconds."""
_KIND = re.compile(r"([A-Z]\w+): (.+)", re.DOTALL)


@dataclass(frozen=True)
class Order:
    """A stage that a work pool is to make."""

    pool: str
    """Name of the deployment `distill-stage/POOL`."""
    title: str
    """Name of the stage in messages."""
    digest: str
    """The stage's digest."""
    name: str
    """Name of its flow run."""
    parameters: dict[str, Any]
    """JSON."""
    minutes: float
    """Time without a worker, or without a sign of life, after which it is given up."""


def make_on_pool(order: Order, progress: Progress, stop: Callable[[], bool]) -> str:
    """Have a worker make a stage, and wait for its end; return the name of its flow run.

    A flow run of the same stage that has not ended is waited for, whoever started it. Call it inside the task of the
    stage: Prefect then cancels the flow run with the run.

    Raises:
        Interrupted: `stop` said so, or the flow run was cancelled; the state is kept.
        ProcessLost: the flow run or its worker died; a second attempt continues from the last state.
        ServiceError: no worker took it.
        DistillError: the stage failed; of the kind that it failed with.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return _Child(client, order, progress, stop).followed()


class _Child:
    """The flow run of an order, as it is seen from here."""

    def __init__(self, client: SyncPrefectClient, order: Order, progress: Progress, stop: Callable[[], bool]) -> None:
        self.client, self.order, self.progress, self.stop = client, order, progress, stop
        progress.phase(f"asking work pool {order.pool}")
        self.run, self.pool = self._begin()
        self._shown: tuple[str, float] = ("", time.monotonic())
        self._sign: tuple[object, float] = (None, 0.0)
        self._signs_at = 0.0

    def _begin(self) -> tuple[FlowRun, str]:
        """Find a flow run of the stage that has not ended, or start one; return it and the name of its work pool."""
        from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
        from prefect.deployments import run_deployment

        order, deployment = self.order, registered(self.client, self.order.pool)
        tag = f"stage-{order.digest[:16]}"
        runs = self.client.read_flow_runs(
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
            flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": [tag]}}),
        )
        alive = [run for run in runs if run.state is None or not run.state.is_final()]
        for number in itertools.count(len(runs)):
            if alive:
                break
            run: Any = run_deployment(
                deployment.id,
                parameters=order.parameters,
                flow_run_name=order.name,
                timeout=0,
                tags=["distill", tag],
                # Of two that ask at once, both get the same; a key of one that has ended is used up.
                idempotency_key=f"{order.digest}-{number}",
            )
            alive = [] if run.state is not None and run.state.is_final() else [run]
        self.progress.note(f"{order.title}: on work pool {order.pool}, {_where(alive[0])}")
        return alive[0], deployment.work_pool_name or order.pool

    def followed(self) -> str:
        """Follow the flow run to its end; return its name."""
        while True:
            state = self._state()
            if state.is_final():
                self._raise_unless_completed(state)
                return self.run.name
            if self.stop():
                raise self._stopped(state)
            self._show(state)
            self._check_life(state)
            self._wait(_LOOK_SECONDS, until=self.stop)

    def _wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            time.sleep(0.1)

    def _state(self) -> State:
        """The flow run's state; a server that is away for less than the order's time is asked again."""
        import httpx
        from prefect.states import Pending

        end = time.monotonic() + 60.0 * self.order.minutes
        while True:
            try:
                return self.client.read_flow_run(self.run.id).state or Pending()
            except httpx.TransportError:
                if time.monotonic() > end or self.stop():
                    raise
                self._wait(_LOOK_SECONDS, until=self.stop)

    def _show(self, state: State) -> None:
        pool = self.order.pool
        if state.is_paused():
            words = f"suspended on {pool}; resume it on Prefect's page"
        elif state.is_running():
            words = f"training on {pool}"
        elif state.is_cancelling():
            words = f"ending on {pool}"
        else:
            words = f"waiting for a worker of {pool}"
        if words != self._shown[0]:
            self._shown = words, time.monotonic()
            self._sign = None, time.monotonic()
        self.progress.phase(words)

    def _check_life(self, state: State) -> None:
        """Give up a flow run that no worker takes, or that gives no sign of life."""
        now, patience = time.monotonic(), 60.0 * self.order.minutes
        if state.is_paused() or now - self._signs_at < min(_SIGNS_SECONDS, patience / 4):
            return
        self._signs_at = now
        if state.is_running():
            if (sign := self._heartbeat()) != self._sign[0]:
                self._sign = sign, now
            if sign is not None and now - self._sign[1] > patience:
                raise self._lost(f"gave no sign of life for {self.order.minutes:g} minutes")
            return
        if state.is_scheduled() and has_worker(self.client, self.pool) and not self._blocks_itself():
            self._shown = self._shown[0], now  # a queue may be long
        if now - self._shown[1] <= patience:
            return
        if not state.is_scheduled():
            raise self._lost(f"has been {state.name} for {self.order.minutes:g} minutes")
        self._set_state("CANCELLED", "no worker took it")
        why = (
            "this run holds a place of a worker of that pool itself: give stages a pool of their own, or that worker "
            "a higher --limit"
            if self._blocks_itself()
            else f"start one with: prefect worker start --pool {self.pool}"
        )
        raise ServiceError(
            f"{self.order.title}: no worker of work pool {self.pool} took it in {self.order.minutes:g} minutes; {why}. "
            "The same command continues"
        )

    def _heartbeat(self) -> object:
        """Name of the flow run's last sign of life; None before the first."""
        from prefect.events.filters import EventFilter

        wanted = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{self.run.id}"]},
        }
        events = self.client.read_events(EventFilter.model_validate(wanted), limit=1).events
        return events[0].id if events else None

    def _blocks_itself(self) -> bool:
        """Return whether this run was started by a worker of the same pool."""
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        return context is not None and getattr(context.flow_run, "work_pool_name", None) == self.pool

    def _set_state(self, kind: str, message: str) -> None:
        from prefect.client.schemas.objects import State, StateType

        state: State[Any] = State(type=StateType(kind), message=message)
        self.client.set_flow_run_state(self.run.id, state, force=kind == "CRASHED")

    def _lost(self, what: str) -> ProcessLost:
        self._set_state("CRASHED", f"{what}, as seen from the run that waits for it")
        return ProcessLost(
            f"{self.order.title}: {_where(self.run)} on work pool {self.order.pool} {what}; its worker may have died. "
            "The last state is kept"
        )

    def _stopped(self, state: State) -> Interrupted:
        """Cancel the flow run, and give it time to save its state."""
        self.progress.phase(f"stopping on {self.order.pool}")
        if not state.is_cancelling():
            begun = state.is_running() or state.is_pending()
            self._set_state("CANCELLING" if begun else "CANCELLED", "the run that waits for it was stopped")
        end = time.monotonic() + _END_SECONDS
        while not (state := self._state()).is_final() and time.monotonic() < end:
            self._wait(min(0.5, _LOOK_SECONDS))
        words = state.message if state.is_cancelled() and state.message else "it was asked to save its state"
        return Interrupted(f"{_where(self.run)} on work pool {self.order.pool} was stopped: {words}")

    def _raise_unless_completed(self, state: State) -> None:
        """Raise the error of a flow run that has ended without its stage."""
        if state.is_completed():
            return
        message = " ".join((state.message or "without a message").split())
        where = f"{_where(self.run)} on work pool {self.order.pool}"
        if state.is_cancelled():
            raise Interrupted(f"{where} was cancelled: {message}")
        words = f"{self.order.title}: {where} ended {state.name}: {message}"
        match = _KIND.fullmatch(message)
        kind = getattr(errors, match[1], None) if match and state.is_failed() else None
        if isinstance(kind, type) and issubclass(kind, DistillError):
            raise kind(words)
        raise ProcessLost(words)


def _where(run: FlowRun) -> str:
    """The flow run's name, and the address of its page if Prefect knows one."""
    from prefect.utilities.urls import url_for

    address = url_for("flow-run", obj_id=run.id)
    return f"Prefect's run {run.name}" + (f" ({address})" if address else "")
