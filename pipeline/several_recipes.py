"""Several recipes in one call: a run for each, one after another in one store, and one closing table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from pipeline.execution.several_runs import ends_all, reason_of
from pipeline.planning.options import RunOptions
from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import open_store
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
    reports: dict[str, RunReport] = {}
    failed: dict[str, str] = {}
    experiments: dict[str | None, None] = {}
    for name, recipe in recipes.items():
        try:
            report = run(recipe, options.model_copy(update={"group": group}))
        except RunsFailed as error:
            report = error.report
        except Exception as error:
            if ends_all(error):
                raise
            failed[name] = reason_of(error)
            continue
        experiments[report.mlflow_experiment_id] = None
        if isinstance(report, RunReport):
            reports[name] = report
        else:
            reports |= {f"{name}/{label}": part for label, part in report.tasks.items()}
            failed |= {f"{name}/{label}": reason for label, reason in report.failed.items()}
    store = open_store(read_settings(options.store).store)
    together = GroupReport(
        run=group,
        recipe=", ".join(recipes),
        shared=(),
        tasks=reports,
        failed=failed,
        seconds=time.monotonic() - began,
        mlflow_experiment_id=next(iter(experiments), None),
        store=str(store.root),
    )
    together = store.write_report(together)
    if failed:
        raise RunsFailed([f"{label}: {reason}" for label, reason in failed.items()], together)
    return together
