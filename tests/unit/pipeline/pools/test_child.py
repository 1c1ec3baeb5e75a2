"""A stage's flow run on a work pool, followed on a real server; the states are those that a worker would set."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Crashed, Failed, Running, Suspended

from pipeline.pools import child
from pipeline.pools.child import Order, make_on_pool
from schemas.core.errors import DataError, DistillError, Interrupted, ProcessLost, ServiceError
from stages.ports.plain import SilentProgress

DIGEST = "0123456789abcdef" * 4


@dataclass
class Worker(SilentProgress):
    """Acts for a worker when the run begins to wait, once for each flow run."""

    states: list[Callable[[], State[Any]]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    runs: list[FlowRun] = field(default_factory=list)

    def phase(self, activity: str) -> None:
        if activity.startswith("waiting") or (self.phases and self.phases[-1] != activity):
            self._work()
        self.phases.append(activity)

    def _work(self) -> None:
        with get_client(sync_client=True) as client:
            wanted = FlowRunFilter.model_validate({"tags": {"all_": [f"stage-{DIGEST[:16]}"]}})
            self.runs = client.read_flow_runs(flow_run_filter=wanted)
            alive = [run for run in self.runs if run.state is not None and not run.state.is_final()]
            if self.states and alive:
                client.set_flow_run_state(alive[0].id, self.states.pop(0)(), force=True)


@pytest.fixture
def order(prefect: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Order]:
    monkeypatch.setattr(child, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(child, "_END_SECONDS", 0.1)
    pool = f"gpu-{uuid.uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        yield Order(pool, "general", DIGEST, "general", {"stage": {}}, minutes=10.0)
        for run in client.read_flow_runs():
            if f"stage-{DIGEST[:16]}" in run.tags:
                client.delete_flow_run(run.id)


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (lambda: Failed(message="DataError: a.csv: no such file"), DataError, "ended Failed: DataError: a.csv: no"),
        (lambda: Failed(message="Flow run encountered an exception: OSError: 5"), ProcessLost, "exception: OSError: 5"),
        (lambda: Cancelled(message="stopped at step 7; state kept"), Interrupted, "stopped at step 7; state kept"),
    ],
)
def test_the_end_of_a_flow_run_is_one_error_that_names_it(
    order: Order, state: Callable[[], State[Any]], kind: type[DistillError], words: str
) -> None:
    with pytest.raises(kind) as error:
        make_on_pool(order, Worker(states=[state]), lambda: False)
    assert type(error.value) is kind
    assert "Prefect's run general" in str(error.value)
    assert f"on work pool {order.pool}" in str(error.value)
    assert words in str(error.value)


def test_a_second_attempt_is_another_flow_run_and_one_that_lives_is_joined(order: Order) -> None:
    with pytest.raises(ProcessLost, match="ended Crashed: status code: -9"):
        make_on_pool(order, Worker(states=[lambda: Crashed(message="status code: -9")]), lambda: False)
    worker = Worker(states=[Running])
    with pytest.raises(Interrupted, match=r"Prefect.s run general .* was stopped: it was asked to save its state"):
        make_on_pool(order, worker, lambda: f"training on {order.pool}" in worker.phases)
    worker = Worker(states=[Completed])
    assert make_on_pool(order, worker, lambda: False) == "general"
    assert worker.phases[1:] == [f"ending on {order.pool}"]
    assert len(worker.runs) == 2


def test_a_stop_cancels_a_flow_run_that_no_worker_has_taken(order: Order) -> None:
    worker = Worker()
    with pytest.raises(Interrupted, match=r"Prefect.s run general .* on work pool gpu-.* was stopped"):
        make_on_pool(order, worker, lambda: True)
    worker._work()
    assert [run.state_type for run in worker.runs] == [StateType.CANCELLED]


def test_a_suspended_flow_run_is_waited_for(order: Order) -> None:
    worker = Worker(states=[lambda: Suspended(timeout_seconds=3600), Completed])
    assert make_on_pool(order, worker, lambda: False) == "general"
    assert f"suspended on {order.pool}; resume it on Prefect's page" in worker.phases


def test_a_pool_without_workers_is_given_up_after_a_while(order: Order) -> None:
    hurried = Order(order.pool, order.title, order.digest, order.name, order.parameters, minutes=0.003)
    worker = Worker()
    with pytest.raises(
        ServiceError, match=rf"no worker of work pool {order.pool} took it in 0\.003 minutes; start one"
    ):
        make_on_pool(hurried, worker, lambda: False)
    worker._work()
    assert [run.state_type for run in worker.runs] == [StateType.CANCELLED]
