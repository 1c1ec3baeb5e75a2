"""The Prefect flow: which stages run, in which order and from which checkpoint. It holds no numbers.

A stage that is in the store is reused by any recipe, task or run, so the flow can be started again at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, runtime
from rich.console import Console

from pipeline.engines.check import check_engine
from pipeline.engines.request import Member
from pipeline.execution.apart import Apart
from pipeline.execution.one_task import RunPlan, resumed_checkpoint, run_plan, stages_after
from pipeline.execution.prefect_tasks import cancelled_when_interrupted, in_prefect
from pipeline.execution.run_context import RunContext, tracked_run
from pipeline.execution.several_runs import run_shared, run_variants
from pipeline.planning.assistants import with_assistant
from pipeline.planning.differences import difference_from_store
from pipeline.planning.options import RunOptions, chosen_stages
from pipeline.planning.outline import OutlinedStage, check_earlier_stages, outline_variants
from pipeline.planning.per_task import per_task
from pipeline.planning.work import expected_parts
from pipeline.pools.registered import check_pools
from pipeline.process.logs import quiet_prefect
from pipeline.process.settings import Settings, read_settings
from pipeline.process.stopping import Stop, interrupted, stop_signals
from pipeline.progress.parts import RunProgress
from pipeline.progress.prefect_page import PrefectPage, is_shown, suspendable
from pipeline.progress.views import make_progress
from pipeline.recipes.shipped import read_recipe
from pipeline.reporting.inputs import data_lines
from pipeline.store.checkpoints import CheckpointStore, open_store
from pipeline.store.files import disk_errors
from pipeline.store.open_runs import OpenRun, needs_of, open_run
from pipeline.tracking.session import TrackedRun
from pipeline.tracking.views import GROUP_TAG
from schemas.core.errors import DistillError
from schemas.core.refs import StudentOf
from schemas.data.tasks import describe_task
from schemas.recipe.recipe import Recipe, Variant
from schemas.recipe.stage import Stage
from schemas.results.manifest import CheckpointRef, Row, RunReport
from schemas.results.report import AnyReport
from stages.build import check_parent
from stages.data.readers.first_reading import first_reading
from stages.models.encoders import locate
from stages.preflight.checks import PreflightResult, preflight
from stages.preflight.model_checks import check_parent_channels

quiet_prefect()
_LONGEST_NAME = 100
Result = TypeVar("Result")


def _run_name() -> str:
    """Name of a flow run on Prefect's pages: recipe, task and changes, such as `quickstart on docstrings`."""
    parameters: dict[str, Any] = runtime.flow_run.parameters
    try:
        recipe = _recipe_of(**{name: value for name, value in parameters.items() if name != "options"})
    except DistillError:  # which the run itself reports
        return str(parameters.get("recipe"))[:_LONGEST_NAME]
    tasks = f"{len(recipe.tasks)} tasks" if recipe.tasks else describe_task(recipe.task) if recipe.task else ""
    changes = [change for change in parameters.get("overrides") or [] if not change.startswith(("task=", "tasks="))]
    name = " ".join([f"{recipe.name} on {tasks}" if tasks else recipe.name, *changes])
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _recipe_of(
    recipe: str, task: str | None = None, tasks: list[str] | None = None, overrides: list[str] | None = None
) -> Recipe:
    named = [f"task={task}"] if task else []
    if tasks is not None:
        named.append(f"tasks={json.dumps(tasks, ensure_ascii=False)}")
    return read_recipe(recipe, [*named, *(overrides or [])])


@flow(name="distill-flow", flow_run_name=_run_name, validate_parameters=True, persist_result=False, log_prints=False)
def distill_flow(
    recipe: str = "quickstart",
    task: str | None = None,
    tasks: list[str] | None = None,
    overrides: list[str] | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008  (frozen)
) -> AnyReport:
    """Distil a student as a recipe says, or one for each of several tasks.

    Args:
        recipe: a shipped recipe's name, or the path of a YAML file.
        task: shorthand for a first override `task=...`, such as sst2 or docstrings.
        tasks: shorthand for a first override `tasks=[...]`: several tasks instead of the recipe's.
        overrides: changes to the recipe, such as `student.shape.num_layers=3`.
        options: which stages, from where, kept where.
    """
    return cancelled_when_interrupted(execute)(_recipe_of(recipe, task, tasks, overrides), options)


@dataclass(frozen=True)
class _Begun:
    """A run whose recipe is checked and whose MLflow run is open."""

    recipe: Recipe
    options: RunOptions
    name: str
    stages: list[Stage]
    parent: CheckpointRef | None
    facts: dict[str | None, PreflightResult]
    context: RunContext
    run: TrackedRun
    began: float

    def plan(self, recipe: Recipe, variant: Variant, name: str) -> RunPlan:
        """The plan of one task and seed, whose own recipe is `recipe`."""
        stages = [recipe.stages[self.recipe.stages.index(stage)] for stage in self.stages]
        has_baselines = not self.options.until_stage
        return RunPlan(recipe, name, self.facts[variant.task], stages, self.parent, has_baselines, variant)


@first_reading()
def execute(recipe: Recipe, options: RunOptions) -> AnyReport:
    """Run a recipe; the report is also kept in the store, in MLflow and, inside a flow run, in Prefect.

    Data that changes meanwhile stays for this run what it was at the preflight checks.

    Raises:
        Interrupted: the user asked to stop.
        RunsFailed: some of several tasks or seeds failed.
    """
    return _executed(recipe, options, None, _report)


@first_reading()
def execute_member(recipe: Recipe, options: RunOptions, member: Member) -> RunReport | tuple[Row, ...]:
    """Run one task and seed of a recipe with several, or what they share, for a run in another process.

    Raises:
        Interrupted: that run asked to stop.
    """

    def finish(begun: _Begun) -> RunReport | tuple[Row, ...]:
        if member.is_shared:
            shared = begun.stages, begun.parent, begun.context, begun.run
            return run_shared(begun.recipe, member.variant, *shared)
        single = begun.recipe.for_variant(member.variant)
        return run_plan(begun.plan(single, member.variant, member.name), begun.context, begun.run, began=begun.began)

    return _executed(recipe, options, member, finish)


def _report(begun: _Begun) -> AnyReport:
    recipe, context, run, began = begun.recipe, begun.context, begun.run, begun.began
    plans = [
        begun.plan(recipe.for_variant(variant), variant, "-".join(filter(None, (begun.name, variant.name))))
        for variant in recipe.variants()
    ]
    if plans[0].variant.name is None:
        return run_plan(plans[0], context, run, began=began)
    return run_variants(begun.name, plans, Apart(recipe, begun.options, context, run), began=began)


def _executed(recipe: Recipe, options: RunOptions, member: Member | None, finish: Callable[[_Begun], Result]) -> Result:
    with interrupted(f"recipe {recipe.name}"), stop_signals() as stop, ExitStack() as stack:
        shown = member is None and in_prefect() and is_shown()
        page = stack.enter_context(suspendable(PrefectPage(recipe.name, stop.request))) if shown else None
        progress = stack.enter_context(closing(make_progress(Console(stderr=True), page)))
        progress.title = recipe.name if member is None else member.title
        settings = read_settings(options.store)
        store = open_store(settings.store)
        with disk_errors(store.root), open_run(store.root, recipe.name) as record:
            return finish(stack.enter_context(_begun(recipe, options, settings, store, record, progress, stop, member)))


@contextmanager
def _begun(
    recipe: Recipe,
    options: RunOptions,
    settings: Settings,
    store: CheckpointStore,
    record: OpenRun,
    progress: RunProgress,
    stop: Stop,
    member: Member | None,
) -> Iterator[_Begun]:
    """Check models and data, record what the run needs, and open its MLflow run for the block."""
    began = time.monotonic()
    stages = chosen_stages(recipe, options.from_stage, options.until_stage)
    if options.from_stage is not None and options.resume_from is None:
        check_earlier_stages(recipe, stages, options.from_stage, store)
    recipe = with_assistant(recipe, lambda other: _finished_student(other, options))
    stop.tell = progress.tell
    name = f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}" if member is None else member.name
    notes = check_pools(recipe.execution.pools)
    notes += check_engine(recipe.execution) if member is None else []
    progress.phase("checking models and data")
    checked = recipe if member is None or member.task is None or recipe.tasks is None else recipe.for_task(member.task)
    with disk_errors(store.cache):
        facts = per_task(checked, lambda task_recipe: preflight(task_recipe, store.cache))
    if member is None:
        notes += data_lines({task: task_facts.card for task, task_facts in facts.items()})
        for line in notes:
            progress.note(line)
    elif checked is not recipe:
        facts = {member.task: facts[None]}
    parent = resumed_checkpoint(options.resume_from, store, settings, record)
    if parent is not None:
        stages = stages_after(parent, recipe, stages, options)
        check_parent(Path(parent.path) / "model", recipe.sized_student, locate(recipe.pretrained))
        check_parent_channels(Path(parent.path), recipe, stages)
    if member is None:
        _expect(recipe, stages, parent, facts, store, record, progress, has_baselines=not options.until_stage)
    tags = {GROUP_TAG: options.group} if options.group and member is None else {}
    with tracked_run(settings, store, progress, stop, record, recipe, name, tags, member) as (context, run):
        yield _Begun(recipe, options, name, stages, parent, facts, context, run, began)


def _expect(
    recipe: Recipe,
    stages: Sequence[Stage],
    parent: CheckpointRef | None,
    facts: dict[str | None, PreflightResult],
    store: CheckpointStore,
    record: OpenRun,
    progress: RunProgress,
    *,
    has_baselines: bool,
) -> None:
    """Record what the run needs, and show its parts, unless they go on in other processes."""
    outlined = outline_variants(recipe, stages, store, parent.digest if parent else None)
    _record_needs(outlined, parent, store, record, progress)
    if recipe.execution.engine.is_apart and len(recipe.variants()) > 1:
        return
    progress.phase("estimating the work")
    with disk_errors(store.cache):
        progress.expect(expected_parts(recipe, outlined, facts, store, has_baselines=has_baselines))


def _record_needs(
    outlined: Sequence[tuple[Variant, OutlinedStage]],
    parent: CheckpointRef | None,
    store: CheckpointStore,
    record: OpenRun,
    progress: RunProgress,
) -> None:
    """Protect every stage that the run will look for from `distill gc`, and say why some have to be run."""
    needs = {parent.digest} if parent else set()
    for _, stage in outlined:
        needs |= {stage.digest, *needs_of(stage.config, stage.parent)}
    record.needs(needs)
    for variant, stage in outlined:
        if not stage.is_shared and (reason := difference_from_store(stage, store)) is not None:
            progress.note(f"{f'{variant.name}/' if variant.name else ''}{stage.title}: to run, {reason}")


def _finished_student(other: StudentOf, options: RunOptions) -> CheckpointRef:
    """The student of another recipe, whose flow runs inside this one."""
    store = RunOptions(store=options.store)
    if in_prefect():
        report = distill_flow(recipe=other.recipe, overrides=list(other.overrides), options=store)
    else:
        report = execute(read_recipe(other.recipe, other.overrides), store)
    assert isinstance(report, RunReport), "a recipe with several tasks or seeds has no single student"
    checkpoint = [row.checkpoint for row in report.rows if row.kind == "stage"][-1]
    assert checkpoint is not None
    return checkpoint
