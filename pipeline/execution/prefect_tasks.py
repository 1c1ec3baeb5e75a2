"""The stages as Prefect tasks: names, retries and tags; what they do is `run_stage`, the same for all.

Prefect's result cache is off: a stage is done when its checkpoint exists, whatever Prefect remembers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from schemas.core.errors import DistillError, Interrupted
from schemas.recipe.stage import StageConfig, StageName
from schemas.results.manifest import CheckpointRef, StageResult
from stages.ports.protocols import StageRunner

log = logging.getLogger(__name__)


async def _worth_retrying(_task: Task[Any, Any], run: Any, state: Any) -> bool:
    """Retry, saying so, what may pass (a file system that hiccups), not what a person has to mend."""
    error = await state.aresult(raise_on_failure=False)
    # An assertion that failed fails again, after the same hours.
    if isinstance(error, DistillError | KeyboardInterrupt | AssertionError):
        return False
    reason = f"{type(error).__name__}: {error}"
    log.warning("%s failed (%s); it is tried again from its last state", run.name, reason)
    return True


P = ParamSpec("P")
R = TypeVar("R")


def cancelled_when_interrupted(call: Callable[P, R]) -> Callable[P, R]:
    """Let Prefect take a run that somebody stopped for cancelled, not failed; whoever called it gets `Interrupted`."""

    @wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except Interrupted as error:
            return cast(R, Cancelled(message=str(error), data=error))

    return run


StageTask = Task[[StageConfig, CheckpointRef | None, StageRunner], StageResult]
_options: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": 5,
    "retry_condition_fn": _worth_retrying,
}


def _stage(name: StageName, description: str) -> StageTask:
    """The Prefect task of one stage; behind each stands the same call, because only their configs differ."""

    @task(name=name, task_run_name=name, description=description, tags=["stage"], **_options)
    @cancelled_when_interrupted
    def stage(config: StageConfig, parent: CheckpointRef | None, run: StageRunner) -> StageResult:
        return run(config, parent)

    return stage


def _stages(described: dict[StageName, str]) -> dict[str, StageTask]:
    return {name: _stage(name, description) for name, description in described.items()}


TEACHER_TASKS = _stages(
    {
        "teacher": "Fine-tune the teacher on the task.",
        "other_teacher": "Fine-tune one more teacher on the task.",
        "multi_task_teacher": "Fine-tune a teacher on several tasks at once.",
    }
)
STAGE_TASKS = _stages(
    {
        "general": "Pretrained teacher, general corpus, latent objective.",
        "general_enhanced": "Fine-tuned teacher, general corpus, latent objective.",
        "task_adaptive": "Fine-tuned teacher, task data, latent objective.",
        "task_specific": "Fine-tuned teacher, task data, latent, soft-label and hard-label objective.",
    }
)
hard_label_baseline = _stage("hard_label_baseline", "The same student on hard labels alone, for as many tokens.")
