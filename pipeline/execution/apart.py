"""Members of a run (one task and seed each) on an engine: what they share first, then all of them."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.engines.own_processes import OwnProcesses
from pipeline.engines.request import Member, MemberAnswer, MemberRequest
from pipeline.execution.one_task import RunPlan
from pipeline.execution.prefect_tasks import RETRIES, in_prefect, prefect_task, run_task
from pipeline.execution.run_context import RunContext
from pipeline.planning.options import RunOptions
from pipeline.planning.outline import needs_made_teachers
from pipeline.store.run_reports import relocated
from pipeline.tracking.session import TrackedRun
from schemas.core.errors import ConfigError, Interrupted
from schemas.recipe.expand import teacher_configs
from schemas.recipe.recipe import Recipe, Variant
from schemas.results.manifest import Row, RunReport

if TYPE_CHECKING:
    from pipeline.engines.ray_cluster import RayCluster

Outcome = RunReport | tuple[Row, ...] | Exception


@dataclass(frozen=True)
class Apart:
    """A run whose members go on in processes of their own.

    Args:
        recipe: with its several tasks or seeds.
        options: of the run.
        context: the parts that the run itself uses.
        run: the MLflow run above those of the members.
    """

    recipe: Recipe
    options: RunOptions
    context: RunContext
    run: TrackedRun

    def outcomes(self, plans: Sequence[RunPlan]) -> tuple[tuple[Row, ...], dict[Variant, RunReport | BaseException]]:
        """Run all members; return the rows of what tasks share, and each member's report or error.

        An error of what they share is found again by the members that need it.
        """
        context, first = self.context, plans[0]
        with context.stop.shielded(math.inf), self._workers() as workers:
            shared = self._shared(first)
            if shared:
                context.progress.phase("making what the runs share")
            rows: list[Row] = []
            for outcome in self._run(workers, shared):
                if isinstance(outcome, Interrupted):
                    raise outcome
                rows += outcome if isinstance(outcome, tuple) else ()
            context.progress.phase(f"{len(plans)} runs")
            members = [self._member(plan.variant, plan.name) for plan in plans]
            reports: dict[Variant, RunReport | BaseException] = {}
            for plan, outcome in zip(plans, self._run(workers, members), strict=True):
                assert not isinstance(outcome, tuple), "only what several share has rows"
                reports[plan.variant] = outcome
                if isinstance(outcome, RunReport):
                    moved = relocated(outcome, context.store.root)
                    assert isinstance(moved, RunReport)
                    reports[plan.variant] = moved
        return tuple(rows), reports

    def _workers(self) -> OwnProcesses | RayCluster:
        engine = self.recipe.execution.engine
        if engine.kind == "threads":
            return OwnProcesses(engine, self.context.stop, self.context.progress.note)
        if not in_prefect():
            raise ConfigError(
                "execution.engine.kind: ray needs a flow run of Prefect's server: run_recipe(..., prefect=True), or "
                "--set execution.engine.kind=threads"
            )
        from pipeline.engines.ray_cluster import RayCluster

        return RayCluster(engine, self.context.stop)

    def _shared(self, plan: RunPlan) -> list[Member]:
        """Parts that several members share: stages without a task, for each seed, and teachers of several seeds."""
        recipe, name = self.recipe, plan.name
        shared = [self._member(variant, name, is_shared=True) for variant in recipe.shared_variants()]
        if len(recipe.seeds) > 1 and needs_made_teachers(plan.stages) and teacher_configs(plan.recipe):
            first = recipe.seeds[0]
            shared += [self._member(Variant(task, first), name, is_shared=True) for task in recipe.tasks or [None]]
        return shared

    def _member(self, variant: Variant, name: str, *, is_shared: bool = False) -> Member:
        above = self.run.points.stem
        return Member(name=name, task=variant.task, seed=variant.seed, run_above=above, is_shared=is_shared)

    def _run(self, workers: OwnProcesses | RayCluster, members: Sequence[Member]) -> list[Outcome]:
        """The outcomes of members, in their order, as many at once as the engine has room for."""
        if not members:
            return []
        with ThreadPoolExecutor(min(len(members), workers.at_once)) as threads:
            futures = [threads.submit(contextvars.copy_context().run, self._one, workers, member) for member in members]
            return [future.result() for future in futures]

    def _one(self, workers: OwnProcesses | RayCluster, member: Member) -> Outcome:
        if self.context.stop():
            return Interrupted("not begun")
        request = MemberRequest(
            recipe=self.recipe.model_dump(mode="json"), options=self.options.model_dump(mode="json"), member=member
        ).model_dump_json()

        def answer() -> RunReport | tuple[Row, ...]:
            return MemberAnswer.model_validate_json(workers.run(member.title, request)).result()

        try:
            if isinstance(workers, OwnProcesses):
                return run_task(
                    prefect_task(answer, "task" if member.task else "seed", member.title, tag="task", **RETRIES)
                )[0]
            return answer()
        except Exception as error:  # the member's, or Prefect's own
            return error
