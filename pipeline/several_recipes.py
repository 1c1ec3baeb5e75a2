"""Several recipes in one call: a run for each, one after another in one store, and one closing table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from pipeline.execution.several_runs import ends_all, reason_of
from pipeline.planning.options import RunOptions
from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import CheckpointStore, open_store
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import RunReport
from schemas.results.report import AnyReport, GroupReport, RunsFailed

log = logging.getLogger(__name__)


def run_each(
    recipes: Mapping[str, Recipe], options: RunOptions, run: Callable[[Recipe, RunOptions], AnyReport]
) -> AnyReport:
    """Run recipes one after another; a stage that several share is made by the first of them, and found by the others.

    Args:
        recipes: by name, in order.
        options: of each run; of several, MLflow finds the runs by the tag distill.group.
        run: runs a recipe.

    Returns:
        The report of the only recipe, or one of all, which the store keeps too.

    Raises:
        RunsFailed: some of several recipes failed; the others are finished and reported.
    """
    if len(recipes) == 1:
        return run(next(iter(recipes.values())), options)
    began = time.monotonic()
    group = f"group-{time.strftime('%Y%m%d-%H%M%S')}"
    chosen = options.model_copy(update={"group": group})
    outcomes = {name: _outcome(partial(run, recipe, chosen)) for name, recipe in recipes.items()}
    store = open_store(read_settings(options.store).store)
    report = store.write_report(_together(group, outcomes, store, time.monotonic() - began))
    if report.failed:
        raise RunsFailed([f"{label}: {reason}" for label, reason in report.failed.items()], report)
    return report


def _together(
    group: str, outcomes: Mapping[str, AnyReport | str], store: CheckpointStore, seconds: float
) -> GroupReport:
    """Return one report of several recipes' runs, the runs of several tasks or seeds each by its own name."""
    reports: dict[str, RunReport] = {}
    failed: dict[str, str] = {}
    experiments: dict[str | None, None] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            failed[name] = outcome
            continue
        experiments[outcome.mlflow_experiment_id] = None
        if isinstance(outcome, RunReport):
            reports[name] = outcome
        else:
            reports |= {f"{name}/{label}": part for label, part in outcome.tasks.items()}
            failed |= {f"{name}/{label}": reason for label, reason in outcome.failed.items()}
    return GroupReport(
        run=group,
        recipe=", ".join(outcomes),
        shared=(),
        tasks=reports,
        failed=failed,
        seconds=seconds,
        mlflow_experiment_id=next(iter(experiments), None),
        store=str(store.root),
    )


def _outcome(run: Callable[[], AnyReport]) -> AnyReport | str:
    """The report of one recipe's run, or why there is none; raises what ends all runs."""
    try:
        return run()
    except RunsFailed as error:
        return error.report
    except Exception as error:
        if ends_all(error):
            raise
        return reason_of(error)
