"""Stages as Prefect tasks: their names, retries and tags.

Prefect's result cache is off: a stage is finished when its checkpoint exists, whatever Prefect remembers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed

from schemas.core.errors import DistillError, Interrupted, ProcessLost
from schemas.recipe.stage import STAGE_TYPES, StageName
from schemas.results.manifest import StageResult

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

_DESCRIPTIONS: dict[StageName, str] = {
    "teacher": "Fine-tune the teacher on the task.",
    "other_teacher": "Fine-tune one more teacher on the task.",
    "multi_task_teacher": "Fine-tune a teacher on several tasks at once.",
    "hard_label_baseline": "The same student on hard labels alone, for as many tokens.",
    **{name: str(stage.__doc__) for name, stage in STAGE_TYPES.items()},
}


async def _worth_retrying(_task: Task[Any, Any], run: Any, state: Any) -> bool:
    """Return whether a second attempt may succeed, as after an error of the file system; logged if so."""
    error = await state.aresult(raise_on_failure=False)
    # An assertion that failed fails again, after the same hours.
    if isinstance(error, DistillError | KeyboardInterrupt | AssertionError) and not isinstance(error, ProcessLost):
        return False
    reason = f"{type(error).__name__}: {error}"
    log.warning("%s failed (%s); it is tried again from its last state", run.name, reason)
    return True


def cancelled_when_interrupted(call: Callable[P, R]) -> Callable[P, R]:
    """Have Prefect show a run that the user stopped as cancelled, not failed; its caller gets `Interrupted`."""

    @wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except Interrupted as error:
            return cast(R, Cancelled(message=f"{error}; the same run, started again, continues", data=error))

    return run


def prefect_task(call: Callable[[], R], name: str, run_name: str, *, tag: str, **options: Any) -> Task[[], R]:
    """`call` as a Prefect task whose runs are named `run_name`."""
    decorated = task(name=name, task_run_name=run_name, cache_policy=NO_CACHE, tags=[tag], **options)
    return cast("Task[[], R]", decorated(cancelled_when_interrupted(call)))


def in_prefect() -> bool:
    """True inside a flow run. Outside, as for `pipeline.api.run_recipe`, nothing may ask for Prefect's server."""
    return FlowRunContext.get() is not None


def run_task(prefect: Task[[], R], needs: Sequence[State] = ()) -> tuple[R, State | None]:
    """Run a Prefect task; return its answer and its final state. Outside a flow run, run its function.

    Args:
        prefect: the task.
        needs: states of the tasks whose results it uses; Prefect's page draws arrows from them.

    Raises:
        Interrupted: it was cancelled.
    """
    if in_prefect():
        state: State = prefect(return_state=True, wait_for=list(needs))
        return cast(R, state.result()), state
    answer: object = prefect.fn()
    return cast(R, answer.result() if isinstance(answer, State) else answer), None


def seen_as_reused(result: StageResult) -> StageResult:
    """Have Prefect's page show a stage that was found in the store as "Reused", which its caller does not notice."""
    if not result.reused or not in_prefect():
        return result
    message = f"found in the store: {result.checkpoint.path}"
    return cast(StageResult, Completed(name="Reused", message=message, data=result))


RETRIES: Mapping[str, Any] = {
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": 5,
    "retry_condition_fn": _worth_retrying,
}
"""Options of a task that goes on from its last state when it is tried again."""


def stage_task(call: Callable[[], R], stage: StageName, run_name: str) -> Task[[], R]:
    """The Prefect task of a stage; `call` runs it."""
    return prefect_task(
        call,
        stage,
        run_name,
        tag="stage",
        description=_DESCRIPTIONS[stage],
        **RETRIES,
    )
