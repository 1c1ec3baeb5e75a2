"""Runs of a whole recipe like those of the flow, but without Prefect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.execution.run_context import RunContext
from pipeline.execution.stage_runner import StageRunner
from pipeline.process.stopping import Stop
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.open_runs import OpenRun, open_run
from pipeline.tracking.session import Tracking
from schemas.recipe.expand import stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import Row, StageResult
from stages.ports.plain import SilentProgress
from tests.support.toys import toy_recipe_dict

BAD, GOOD = 1e-30, 5e-3
"""Learning rates with which the toy learns nothing, and all."""


def recipe_of(folder: Path, *rates: float, selection: dict[str, Any] | None = None, **task_model: Any) -> Recipe:
    """A recipe of one stage whose teacher is fine-tuned with each of the learning rates."""
    content = toy_recipe_dict(folder, steps=2)
    content["stages"] = content["stages"][2:3]
    content["baselines"] = ["bag_of_words"]
    del content["general_corpus"]
    content["execution"] = {"log_every": 50}
    training = content["teacher"]["task_model"]["training"]
    training |= {"duration": "100 steps", "selection": selection}
    if len(rates) == 1:
        training["optimizer"] = {"learning_rate": rates[0]}
    else:
        content["teacher"]["task_model"]["grid"] = {"learning_rate": list(rates)}
    content["teacher"]["task_model"] |= task_model
    return Recipe.model_validate(content)


@dataclass
class RunByHand:
    """A finished run: its runner, the result of each stage, and the progress notes."""

    runner: StageRunner
    results: list[StageResult]
    notes: list[str]

    @property
    def teachers(self) -> list[Row]:
        return [row for row in self.runner.judge.rows if row.kind == "teacher"]


def run(recipe: Recipe, store: CheckpointStore, progress: SilentProgress | None = None) -> RunByHand:
    with open_run(store.root, recipe.name) as registered:
        return _run(recipe, store, progress or SilentProgress(), registered)


def _run(recipe: Recipe, store: CheckpointStore, progress: SilentProgress, registered: OpenRun) -> RunByHand:
    tracking = Tracking(f"sqlite:///{store.root}/mlflow.db", "toys", store.points, artifacts=store.root / "mlartifacts")
    parent = tracking.start_run("toy", {}, {})
    runner = StageRunner(recipe, RunContext(store, tracking, progress, Stop(), registered, exports=False), parent)
    try:
        for config in teacher_configs(recipe):
            runner(config, None)
        runner.judge.check_teachers()
        results, checkpoint = [], None
        for stage in recipe.stages:
            results.append(runner(stage_config(recipe, stage, runner.teachers.available), checkpoint))
            checkpoint = results[-1].checkpoint
        parent.finish()
    finally:
        tracking.close()
    return RunByHand(runner, results, progress.notes)
