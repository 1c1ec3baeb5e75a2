"""The stages as Prefect tasks: names, retries and tags; what they do is `run_stage`, the same for all.

Prefect's result cache is off: a stage is done when its checkpoint exists, whatever Prefect remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from schemas.errors import DistillError
from schemas.results import CheckpointRef, StageResult
from schemas.stage import StageConfig, StageName
from stages.ports import StageRunner


async def _worth_retrying(_task: Task[Any, Any], _run: Any, state: Any) -> bool:
    """Retry what may pass (a file system that hiccups), not what a person has to mend."""
    error = await state.aresult(raise_on_failure=False)
    return not isinstance(error, DistillError | KeyboardInterrupt)


StageTask = Task[[StageConfig, CheckpointRef | None, StageRunner], StageResult]
_options: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": 5,
    "retry_condition_fn": _worth_retrying,
}


def _stage(name: StageName, description: str) -> Callable[..., StageTask]:
    return task(name=name, task_run_name=name, description=description, tags=["stage"], **_options)


@_stage("teacher", "Fine-tune the teacher on the task.")
def fine_tune_teacher(
    config: StageConfig, parent: CheckpointRef | None, run: StageRunner
) -> StageResult:
    """The fine-tuned teacher."""
    return run(config, parent)


@_stage("general", "Pretrained teacher, general corpus, latent objective.")
def general(config: StageConfig, parent: CheckpointRef | None, run: StageRunner) -> StageResult:
    """The student after general distillation."""
    return run(config, parent)


@_stage("general_enhanced", "Fine-tuned teacher, general corpus, latent objective.")
def general_enhanced(
    config: StageConfig, parent: CheckpointRef | None, run: StageRunner
) -> StageResult:
    """The student after general-enhanced distillation."""
    return run(config, parent)


@_stage("task_adaptive", "Fine-tuned teacher, task data, latent objective.")
def task_adaptive(
    config: StageConfig, parent: CheckpointRef | None, run: StageRunner
) -> StageResult:
    """The student after task-adaptive distillation."""
    return run(config, parent)


@_stage(
    "task_specific", "Fine-tuned teacher, task data, latent, soft-label and hard-label objective."
)
def task_specific(
    config: StageConfig, parent: CheckpointRef | None, run: StageRunner
) -> StageResult:
    """The finished student."""
    return run(config, parent)


@_stage("hard_label_baseline", "The same student on hard labels alone, for as many tokens.")
def hard_label_baseline(
    config: StageConfig, parent: CheckpointRef | None, run: StageRunner
) -> StageResult:
    """What the same tokens give without a teacher."""
    return run(config, parent)


STAGE_TASKS: dict[str, StageTask] = {
    "general": general,
    "general_enhanced": general_enhanced,
    "task_adaptive": task_adaptive,
    "task_specific": task_specific,
}
