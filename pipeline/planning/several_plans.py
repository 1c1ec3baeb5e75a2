"""The plan of several recipes that are run in one call: each one's plan, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from pipeline.planning.per_task import per_recipe
from pipeline.planning.plan import Plan, PlannedStage, counted, make_plan, print_plan
from pipeline.process.terminal import say
from pipeline.reporting.run_table import duration
from schemas.core.base import Frozen
from schemas.recipe.recipe import Recipe


class SeveralPlans(Frozen):
    """The plans of several recipes, in the order in which they are run."""

    plans: tuple[Plan, ...]
    """One for each recipe; a stage that an earlier recipe makes has the status `shared`."""
    seconds: float
    """Estimated wall time of all stages to run, one after another."""


def make_plans(recipes: Mapping[str, Recipe], store: Path | None) -> SeveralPlans:
    """Check models and data of several recipes and plan them; nothing is trained."""
    plans, known = [], set[str]()
    for plan in per_recipe(recipes, lambda recipe: make_plan(recipe, store)):
        stages = tuple(_shared(stage) if stage.digest in known else stage for stage in plan.stages)
        seconds = sum(stage.seconds for stage in stages if stage.status == "run")
        plans.append(plan.model_copy(update={"stages": stages, "seconds": seconds}))
        known |= {stage.digest for stage in stages}
    return SeveralPlans(plans=tuple(plans), seconds=sum(plan.seconds for plan in plans))


def _shared(stage: PlannedStage) -> PlannedStage:
    is_made = stage.status == "run"
    return stage.model_copy(update={"status": "shared", "reason": None}) if is_made else stage


def print_plans(several: SeveralPlans, console: Console) -> None:
    """Print each recipe's plan, then what they come to together."""
    for plan in several.plans:
        print_plan(plan, console)
        console.print()
    stages = [stage for plan in several.plans for stage in plan.stages]
    say(
        console,
        f"{len(several.plans)} recipes: {counted(stages)}; left to run: about {duration(several.seconds)}, one after "
        "another",
    )
