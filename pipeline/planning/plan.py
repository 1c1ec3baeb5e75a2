"""The plan of a run: the stages that the store already has, and the cost of all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from pipeline.engines.check import check_engine
from pipeline.planning.assistants import assistant_of
from pipeline.planning.differences import difference_from_store
from pipeline.planning.outline import OutlinedStage, outline_variants, with_finished_assistant
from pipeline.planning.per_task import per_task
from pipeline.planning.room import Room, StageRoom, room_of
from pipeline.planning.room import described as described_room
from pipeline.planning.teacher_notes import teacher_notes, tuned_again
from pipeline.pools.registered import check_pools
from pipeline.process.settings import read_settings
from pipeline.process.terminal import say
from pipeline.reporting.inputs import data_lines
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.run_table import amount, duration, size_lines
from pipeline.store.checkpoints import CheckpointStore, store_for_look
from schemas.core.base import Frozen
from schemas.core.wording import shown_bytes
from schemas.data.cards import DataCard
from schemas.data.stage_data import describe_data
from schemas.recipe.parts import Execution
from schemas.recipe.recipe import Recipe, Variant
from schemas.recipe.stage import StageConfig, StageName
from schemas.results.manifest import Size
from stages.device.launch import number_of_all_processes
from stages.models.student import encoder_flops
from stages.preflight.checks import PreflightResult, preflight
from stages.preflight.cost import EFFICIENCY, cost_of, matrix_rate
from stages.preflight.groups import described, group_of


class PlannedStage(Frozen):
    """A stage of a plan."""

    name: StageName
    """Stage."""
    task: str | None = None
    """Its task; null for stages that several tasks share, and for a run with one task."""
    seed: int | None = None
    """Its seed; null for a recipe that does not list several."""
    candidate: str | None = None
    """Settings that tell a teacher's candidate from the others; null without candidates."""
    status: Literal["run", "reuse", "shared"]
    """`run`: it is to be made; `reuse`: the store has it; `shared`: an earlier stage of the same plan is the same."""
    reason: str | None = None
    """Difference from the nearest checkpoint of that stage; null if it is reused, or there is no checkpoint."""
    digest: str
    """The stage's digest."""
    teacher: str
    """Kind of the teacher."""
    data: str
    """Data that it reads."""
    objective: str
    """Parts of the objective."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Real (non-padding) tokens."""
    flops: float
    """Floating-point operations of the encoders."""
    seconds: float
    """Estimated wall time in all processes."""
    kept_bytes: int = 0
    """Disk space for the teacher's answers while the stage trains; 0 if the teacher reads the rows in every epoch."""
    checkpoint_bytes: int = 0
    """Disk space of the checkpoint."""
    states_bytes: int = 0
    """Most disk space of the training states, until the stage is finished."""
    gradient_bytes: int = 0
    """Size of the gradient that the processes of the stage sum up in every step."""
    process_bytes: float = 0
    """Memory of models, gradient and moments in each process, without activations."""


class Plan(Frozen):
    """The plan of a run."""

    recipe: str
    """The recipe's name."""
    store: str
    """The store's folder."""
    data: dict[str, DataCard]
    """Data cards by task, or by the recipe's name if it does not have several tasks."""
    stages: tuple[PlannedStage, ...]
    """In order."""
    size: Size
    """Parameters and operations of student and teacher."""
    seconds: float
    """Estimated wall time of the stages to run."""
    room: Room
    """Disk space."""
    notes: tuple[str, ...] = ()
    """Remarks on the fine-tuning of teachers, and on work pools that nobody works for."""
    then: str | None = None
    """The requested recipe, if this plan is of the recipe whose student must become its teacher first."""


def make_plan(recipe: Recipe, store_path: Path | None) -> Plan:
    """Check models and data, and plan the run; nothing is trained."""
    with store_for_look(read_settings(store_path).store) as store:
        return _plan(recipe, store)


def _plan(recipe: Recipe, store: CheckpointStore) -> Plan:
    ready = with_finished_assistant(recipe, store)
    if ready is None:
        other = assistant_of(recipe)
        assert other is not None
        first = _plan(other, store)
        return first.model_copy(update={"then": first.then or recipe.name})
    recipe = ready
    remarks = [*check_pools(recipe.execution.pools), *check_engine(recipe.execution)]
    checked = per_task(recipe, lambda task_recipe: preflight(task_recipe, store.cache))
    facts = next(iter(checked.values()))  # the models are the same whatever the task
    rates = {precision: matrix_rate(precision) for precision in {stage.training.precision for stage in recipe.stages}}
    planned: list[PlannedStage] = []
    outlined = outline_variants(recipe, recipe.stages, store)
    for variant, stage in outlined:
        precision = stage.config.training.precision
        rate = rates.get(precision) or matrix_rate(precision)
        planned.append(_planned(variant, stage, checked.get(variant.task, facts), store, rate, recipe.execution))
    to_run = [stage for stage in planned if stage.status == "run"]
    return Plan(
        recipe=recipe.name,
        store=str(store.root),
        data={task or recipe.name: result.card for task, result in checked.items()},
        stages=tuple(planned),
        size=Size(
            student_parameters=facts.student_parameters,
            teacher_parameters=facts.teacher_parameters,
            student_flops=encoder_flops(facts.student),
            teacher_flops=encoder_flops(facts.teacher),
        ),
        seconds=sum(stage.seconds for stage in to_run),
        room=room_of((StageRoom(s.checkpoint_bytes, s.states_bytes, s.kept_bytes) for s in to_run), store.root),
        notes=(
            *tuned_again(recipe, facts.labels),
            *_process_notes(recipe.execution, to_run),
            *teacher_notes(
                [
                    (variant.task, stage.config, line.tokens)
                    for (variant, stage), line in zip(outlined, planned, strict=True)
                    if variant.seed in (None, *recipe.seeds[:1])
                ]
            ),
            *remarks,
        ),
    )


def _process_notes(execution: Execution, to_run: Sequence[PlannedStage]) -> Iterator[str]:
    """Say for which processes the times are, where there are several."""
    group = group_of(execution.launch, 1.0)
    if group.processes > 1 and to_run:
        yield described(execution.launch, group, max(stage.gradient_bytes for stage in to_run))


def _planned(
    variant: Variant,
    stage: OutlinedStage,
    facts: PreflightResult,
    store: CheckpointStore,
    rate: float,
    execution: Execution,
) -> PlannedStage:
    config = stage.config
    cost = cost_of(
        config,
        facts,
        store.cache,
        rate,
        room=execution.teacher_cache_gigabytes * 1e9,
        microbatch_tokens=execution.microbatch_tokens,
        processes=number_of_all_processes(execution.launch),
        shards_teacher=execution.launch.teacher == "sharded",
    )
    group, sizes = group_of(execution.launch, rate * EFFICIENCY), cost.sizes
    is_reused = store.find(config.name, stage.digest) is not None
    return PlannedStage(
        name=config.name,
        task=variant.task,
        seed=variant.seed,
        candidate=stage.candidate,
        status="reuse" if is_reused else "shared" if stage.is_shared else "run",
        reason=None if is_reused or stage.is_shared else difference_from_store(stage, store),
        digest=stage.digest,
        teacher=config.teacher.kind if config.teacher else "–",
        data=describe_data(config.data),
        objective=_objective(config),
        steps=cost.steps,
        tokens=cost.tokens,
        flops=cost.flops,
        seconds=group.seconds(cost.flops, cost.steps, sizes.gradient_bytes),
        kept_bytes=cost.kept_bytes,
        checkpoint_bytes=sizes.checkpoint_bytes,
        states_bytes=sizes.states_bytes,
        gradient_bytes=sizes.gradient_bytes,
        process_bytes=cost.process_bytes,
    )


def _objective(config: StageConfig) -> str:
    objective = config.objective
    parts = {
        "latent": objective.latent,
        "soft label": objective.soft_label,
        "hard label": objective.hard_label,
    }
    words = "masked words: " if objective.kind == "masked_language" else ""
    return words + " + ".join(name for name, part in parts.items() if part)


def _title(stage: PlannedStage) -> str:
    variant = Variant(stage.task, stage.seed).name
    return f"{variant}/{stage.name}" if variant else stage.name


def counted(stages: Sequence[PlannedStage]) -> str:
    """Write how many stages are made, found and shared: `5 stages to make, 2 found in the store, 1 shared`."""
    made, found, shared = (sum(stage.status == status for stage in stages) for status in ("run", "reuse", "shared"))
    return f"{made} {'stage' if made == 1 else 'stages'} to make, {found} found in the store, {shared} shared"


def plan_table(plan: Plan) -> ResultTable:
    """The plan as a table: what each stage is made of, whether it is in the store, and what it costs."""
    columns = (
        Column("stage", is_text=True),
        Column("status", "", is_text=True),
        Column("teacher", is_text=True),
        Column("data", is_text=True),
        Column("objective", is_text=True, wraps=True),
        *map(Column, ("steps", "tokens", "operations", "about")),
    )
    rows = []
    statuses = {"run": "to run", "reuse": "reused", "shared": "shared"}
    for stage, following in zip(plan.stages, [*plan.stages[1:], None], strict=True):
        is_made = stage.status == "run"
        cells = (
            _title(stage),
            statuses[stage.status],
            stage.teacher,
            stage.data,
            f"{stage.objective}: {stage.candidate}" if stage.candidate else stage.objective,
            f"{stage.steps:,}",
            amount(stage.tokens),
            f"{stage.flops / 1e12:.2f} T",
            duration(stage.seconds) if is_made else "–",
        )
        ends_section = following is not None and (following.task, following.seed) != (stage.task, stage.seed)
        rows.append(TableRow(cells, "" if is_made else "dim", ends_section))
    return ResultTable(columns, tuple(rows), f"{plan.recipe}: what would run")


def print_plan(plan: Plan, console: Console) -> None:
    """Print the data, the plan as a table, and its cost."""
    several = len(plan.data) > 1
    cards = {name if several else None: card for name, card in plan.data.items()}
    for line in data_lines(cards):
        say(console, line)
    console.print()
    console.print(as_terminal(plan_table(plan)))
    lines = [f"{_title(stage)}: to run, {stage.reason}" for stage in plan.stages if stage.reason]
    lines += size_lines(plan.size)
    lines += [
        f"{_title(stage)}: the teacher is asked once; its answers take {stage.kept_bytes / 1e9:.2g} GB on disk while "
        "the stage trains"
        for stage in plan.stages
        if stage.kept_bytes and stage.status == "run"
    ]
    if held := max((stage.process_bytes for stage in plan.stages if stage.status == "run"), default=0):
        lines += [described_room(plan.room)]
        lines += [f"memory: {shown_bytes(held)} for models, gradient and moments in each process, besides activations"]
    lines += plan.notes
    if any(stage.task or stage.seed is not None for stage in plan.stages):
        lines.append(counted(plan.stages))
    lines.append(f"left to run: about {duration(plan.seconds)}, a first guess from this machine's matrix rate")
    if plan.then:
        lines.append(
            f"then: recipe {plan.then}, which needs this student as its teacher; it can be planned once the student "
            "is in the store"
        )
    for line in [*lines, f"store: {plan.store}"]:
        say(console, line)
