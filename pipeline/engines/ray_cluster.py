"""Members as tasks of a Ray cluster, through Prefect's task runner for Ray."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL
from prefect.states import Failed

from pipeline.engines.own_processes import OwnProcesses
from pipeline.engines.request import MemberAnswer
from schemas.core.errors import Interrupted, ProcessLost, ServiceError
from schemas.recipe.parts import Engine

_LOOK_SECONDS = 1.0
_RETRIES = 2
"""Further attempts of a member, by Ray if its machine is lost, by Prefect if its process is."""
_HANDED_ON = ("DISTILL_", "MLFLOW_TRACKING_", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Beginnings of the names of variables that a member needs as this process has them."""
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own 30 seconds are too few for a busy machine, whose raylet then ends.
    "RAY_agent_register_timeout_ms": "300000",
}


class RayCluster:
    """Runs members as tasks of a Ray cluster, as many at once as its resources allow.

    Args:
        engine: the setting.
        stop: returns whether the user asked to stop; the tasks are interrupted, and save their states.
    """

    def __init__(self, engine: Engine, stop: Callable[[], bool]) -> None:
        self.engine, self.stop = engine, stop
        self.at_once = 64
        self._stack = ExitStack()

    def __enter__(self) -> RayCluster:
        from prefect_ray import RayTaskRunner

        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        import ray

        options: dict[str, Any] = {
            "runtime_env": {"env_vars": _environment()},
            "include_dashboard": False,
            "log_to_driver": True,
        }
        if self.engine.address is not None:
            del options["include_dashboard"]
        try:
            self._runner = self._stack.enter_context(RayTaskRunner(address=self.engine.address, init_kwargs=options))
        except Exception as error:  # Ray raises what it likes
            where = self.engine.address or "a cluster of this machine"
            raise ServiceError(f"execution.engine.address: {where} cannot be used by Ray: {error}") from None
        gpus = self.engine.gpus_each
        if gpus is None:
            gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
        # One task a process: the next one gets its GPU, and memory that nobody holds.
        self._options = {"num_cpus": self.engine.cpus_each, "num_gpus": gpus, "max_calls": 1, "max_retries": _RETRIES}
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def run(self, name: str, request: str) -> str:
        """Run a member to its end and return its answer.

        Raises:
            ProcessLost: Ray lost the task more often than it tries one.
        """
        import ray
        from prefect_ray.context import remote_options

        member = task(
            name="member",
            task_run_name=name,
            cache_policy=NO_CACHE,
            tags=["task"],
            persist_result=False,
            retries=_RETRIES,
            retry_delay_seconds=5,
            retry_condition_fn=_is_lost,
        )
        with remote_options(**self._options):
            future = self._runner.submit(member(run_member), {"name": name, "request": request})
        is_asked = False
        while not ray.wait([future.wrapped_future], timeout=_LOOK_SECONDS)[0]:
            if self.stop() and not is_asked:
                ray.cancel(future.wrapped_future, force=False)
                is_asked = True
        try:
            answer: Any = future.result(raise_on_failure=False)
        except ray.exceptions.TaskCancelledError:
            raise Interrupted(f"{name} was stopped") from None
        except Exception as error:  # Ray's, of a worker or a machine that was lost
            raise ProcessLost(f"Ray lost {name}: {error}") from None
        if not isinstance(answer, str):
            raise ProcessLost(f"the task of {name} failed on the cluster: {answer}")
        return answer


def run_member(name: str, request: str) -> str:
    """Run a member in a process beside this task of the cluster, which it ends with; takes and returns JSON.

    Raises:
        ProcessLost: a second attempt may succeed.
    """
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda _number, _frame: asked.set())  # Ray's way of asking a task to stop
    try:
        workers = OwnProcesses(Engine(gpus_each=0), asked.is_set, lambda line: print(line, file=sys.stderr, flush=True))
        text = workers.start(name, request)
    finally:
        signal.signal(signal.SIGINT, before)
    answer = MemberAnswer.model_validate_json(text)
    if answer.error is None:
        return text
    if answer.is_unexpected:
        raise ProcessLost(f"{name}: {answer.error}: {' '.join(answer.problems)}")
    failed: State[Any] = Failed(message=f"{answer.error}: {' '.join(answer.problems)}", data=text)
    return cast(str, failed)


def _is_lost(_task: object, _run: object, state: State[Any]) -> bool:
    """True for a member without an answer; one that failed by an error of ours would fail again."""
    return not isinstance(state.data, str)


def _environment() -> dict[str, str]:
    """Variables of the tasks: Prefect's server with its login, MLflow's, and the store's."""
    settings = {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_API_AUTH_STRING": _secret(PREFECT_API_AUTH_STRING.value()),
        "PREFECT_API_KEY": _secret(PREFECT_API_KEY.value()),
    }
    named = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
    return named | {name: str(value) for name, value in settings.items() if value}


def _secret(value: Any) -> str | None:
    return None if value is None else value.get_secret_value()
