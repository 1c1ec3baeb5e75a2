"""Finds a finished stage in the store or runs it, then logs and judges it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.execution.finished_teachers import FinishedStage, TeacherChoice
from pipeline.execution.judge import Judge, kind_of
from pipeline.execution.mlflow_notes import describe_stage, row_tags
from pipeline.execution.pool_stage import made_on_pool
from pipeline.execution.prefect_tasks import prefect_task, run_task, seen_as_reused, stage_task
from pipeline.execution.run_context import RunContext
from pipeline.execution.stage_training import StageWork, data_of, log_training, trained
from pipeline.process.stopping import interrupted
from pipeline.progress.parts import Part
from pipeline.registry.light_model import has_light_model, log_light_model
from pipeline.reporting.run_table import student_row, teacher_row
from pipeline.shipping.kept import shipped_by
from pipeline.store.checkpoints import verify
from pipeline.store.open_runs import needs_of
from pipeline.tracking.artifacts import CHECKPOINT, STUDENT, is_stored, log_checkpoint, log_student
from pipeline.tracking.client import CHECKPOINT_TAG
from pipeline.tracking.parameters import stage_params
from pipeline.tracking.session import TrackedRun
from schemas.core.base import digest_of
from schemas.core.errors import ConfigError, DistillError, Interrupted
from schemas.data.tasks import describe_task
from schemas.recipe.objective import TaskObjective
from schemas.recipe.recipe import ONLY_RUN, Recipe, Variant
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef, Manifest, RunReport, StageResult
from schemas.results.shipping import Shipping
from stages.identity import stage_identity
from stages.storage.sealed_folder import MANIFEST

CANDIDATE_TAG, CHOSEN_TAG = "distill.candidate", "distill.chosen"


class StageRunner:
    """Runs the stages of one recipe, which may be that of one of several tasks.

    Args:
        recipe: the recipe.
        context: the parts that all stages of the flow run use.
        run: the MLflow run that those of the stages are shown under.
        variant: its task and seed among several; without a task where there is one, or for what several share.
    """

    def __init__(self, recipe: Recipe, context: RunContext, run: TrackedRun, variant: Variant = ONLY_RUN) -> None:
        self.recipe, self.context, self.run, self.variant = recipe, context, run, variant
        self.teachers = TeacherChoice(recipe)
        self.judge = Judge(recipe, context.store, context.progress, self.teachers)
        self._data: set[tuple[str, str, str]] = set()

    def run_name(self, stage: str) -> str:
        """Name of a stage's run: `general`, or `mrpc/general` where there are several tasks or seeds."""
        return f"{self.variant.name}/{stage}" if self.variant.name else stage

    def part(self, name: str) -> AbstractContextManager[Part]:
        """A part of this run, shown as running during the block."""
        return self.context.run_progress.part(self.run_name(name))

    def run_in_prefect(self, config: StageConfig, parent: CheckpointRef | None) -> StageResult:
        """Run a stage, or find it in the store, as a Prefect task."""
        finished = self.context.finished
        needs = [finished[digest] for digest in sorted(needs_of(config, parent)) if digest in finished]
        task = stage_task(lambda: seen_as_reused(self(config, parent)), config.name, self.run_name(self._title(config)))
        result, state = run_task(task, needs)
        if state is not None:
            finished[result.checkpoint.digest] = state
        return result

    def bag_of_words_in_prefect(self) -> None:
        """Measure the bag-of-words baseline as a Prefect task."""

        def fit() -> None:
            with interrupted("bag_of_words"), self.part("bag_of_words") as part:
                part.result = self.judge.words(self.judge.add_bag_of_words())

        run_task(prefect_task(fit, "bag_of_words", self.run_name("bag_of_words"), tag="baseline"))

    def ship_in_prefect(self, report: RunReport, *, exported: bool) -> Shipping | None:
        """Measure the forms of the finished student as a Prefect task; None where they cannot be measured."""

        def measure() -> Shipping | None:
            with interrupted("shipping"), self.part("shipping"):
                self.context.progress.phase("measuring")
                return self._ship(report, exported=exported)

        name = self.run_name("shipping")
        shipped = filter(None, (student_row(report), teacher_row(report)))
        made = [self.context.finished.get(row.checkpoint.digest) for row in shipped if row.checkpoint]
        task = prefect_task(measure, "shipping", name, tag="report", persist_result=False)
        return run_task(task, [state for state in made if state is not None])[0]

    def _ship(self, report: RunReport, *, exported: bool) -> Shipping | None:
        cache, note = self.context.store.cache, self.context.progress.note
        try:
            shipped = shipped_by(report, cache, note, exported=exported)
        except Interrupted:
            raise
        except Exception as error:  # exporters raise what they like, and the run is whole without this table
            note(f"what you ship was not measured: {error}")
            return None
        if shipped is None:
            return None
        if shipped.export is not None:
            self._log_light_model(shipped.export, shipped.shipping.example)
        return shipped.shipping

    def _log_light_model(self, export: Path, example: dict[str, str] | None) -> None:
        try:
            if not has_light_model(export, self.context.tracking):
                log_light_model(export, self.run, example)
        except ConfigError:
            pass  # of a kind that MLflow cannot serve
        except DistillError:
            raise
        except Exception as error:  # MLflow raises what it likes
            self.context.progress.note(f"the light model could not be put into MLflow's form: {error}")

    def __call__(self, config: StageConfig, parent: CheckpointRef | None) -> StageResult:
        """The finished stage: found in the store, or made here or on a work pool; judged and logged in any case."""
        identity = stage_identity(config, parent.digest if parent else None)
        digest = digest_of(identity)
        store, pool = self.context.store, self.recipe.execution.pools.get(config.name)
        # Recorded before the search, or `distill gc` could remove it in between.
        self.context.open_run.needs({digest, *needs_of(config, parent)})
        part_name = self._title(config)
        # Whoever trains the stage holds its lock.
        lock = store.lock(config.name, digest) if pool is None else nullcontext()
        with interrupted(self.run_name(config.name)), self.part(part_name) as part, lock:
            match = store.find(config.name, digest)
            if match is not None:
                part.detail = match[0].path
                stage = self._reuse(config, *match)
            elif pool is not None:
                stage = self._run_on_pool(pool, config, parent, identity)
            else:
                stage = self._run(config, parent, identity)
            if stage.candidate is not None and (candidates := self.teachers.add(stage)):
                self._choose(candidates)
            part.result = self.judge.words_of(stage)
        return stage.result

    def _title(self, config: StageConfig) -> str:
        """Name of a stage for messages, with the settings that distinguish a teacher from the other candidates."""
        candidate = self.teachers.candidate_of(config)
        return f"{config.name} ({candidate})" if candidate else config.name

    def _run_arguments(
        self, config: StageConfig, digest: str, checkpoint: str | None = None
    ) -> tuple[str, dict[str, str], dict[str, str]]:
        """Name, parameters and tags of a stage's MLflow run."""
        tags = {"distill.stage": config.name, "distill.digest": digest, "distill.recipe": self.recipe.name}
        tags |= row_tags(config.name)
        if self.recipe.task is not None:
            tags["distill.task"] = self.variant.task or describe_task(self.recipe.task)
        if candidate := self.teachers.candidate_of(config):
            tags[CANDIDATE_TAG] = candidate
        if checkpoint is not None:
            tags[CHECKPOINT_TAG] = checkpoint
        return self.run_name(self._title(config)), stage_params(config), tags

    def _reuse(self, config: StageConfig, checkpoint: CheckpointRef, manifest: Manifest) -> FinishedStage:
        verify(Path(checkpoint.path))
        arguments = self._run_arguments(config, manifest.digest, checkpoint.path)
        with self.context.tracking.reused_run(*arguments, parent=self.run, manifest=manifest) as run:
            self._log_data(config, manifest.identity, run)
            result = _result_of(checkpoint, manifest, run, reused=True)
            return self._finish(config, result, manifest, run)

    def _log_data(self, config: StageConfig, identity: dict[str, Any], run: TrackedRun | None = None) -> None:
        """Record a stage's data as an input of its run, and once of the run above."""
        if (data := data_of(config, identity)) is None:
            return
        if run is not None:
            run.log_dataset(*data)
        if data not in self._data:
            self._data.add(data)
            self.run.log_dataset(*data)

    def _work(self, config: StageConfig, parent: CheckpointRef | None, identity: dict[str, Any]) -> StageWork:
        run_name, _, tags = self._run_arguments(config, digest_of(identity))
        return StageWork(
            config=config,
            parent=parent,
            identity=identity,
            execution=self.recipe.execution,
            title=self._title(config),
            run_name=run_name,
            tags=tags,
        )

    def _run(self, config: StageConfig, parent: CheckpointRef | None, identity: dict[str, Any]) -> FinishedStage:
        self._log_data(config, identity)
        with trained(self._work(config, parent, identity), self.context, self.run) as (result, run):
            return self._finish(config, result, verify(Path(result.checkpoint.path)), run)

    def _run_on_pool(
        self, pool: str, config: StageConfig, parent: CheckpointRef | None, identity: dict[str, Any]
    ) -> FinishedStage:
        self._log_data(config, identity)
        checkpoint, manifest = made_on_pool(pool, self._work(config, parent, identity), self.context, self.run)
        arguments = self._run_arguments(config, manifest.digest, checkpoint.path)
        with self.context.tracking.continued_run(*arguments, parent=self.run, manifest=manifest) as run:
            return self._finish(config, _result_of(checkpoint, manifest, run, reused=False), manifest, run)

    def _finish(self, config: StageConfig, result: StageResult, manifest: Manifest, run: TrackedRun) -> FinishedStage:
        """Judge a stage, unless it is one of several candidates, and store its artifacts beside its numbers."""
        candidate = self.teachers.candidate_of(config)
        stage = FinishedStage(config, result, manifest.labels, run.points.stem, candidate)
        self.context.progress.phase("judging")
        row = before = None
        if candidate is None:
            if config.student is None:
                self.teachers.choose([stage])
            elif manifest.parent_digest is not None:
                before = next((row for row in reversed(self.judge.rows) if row.kind == "stage"), None)
            self.judge.add_stage(stage, run)
            row = self.judge.rows[-1]
        describe_stage(run, config, row, before)
        self._log_artifacts(stage, manifest, run)
        return stage

    def _choose(self, candidates: list[FinishedStage]) -> None:
        """Make the best candidate the teacher, and mark its MLflow run."""
        best = self.teachers.choose(candidates)
        checkpoint = best.result.checkpoint
        name, params, tags = self._run_arguments(best.config, checkpoint.digest, checkpoint.path)
        tags[CHOSEN_TAG] = "true"
        with self.context.tracking.start_run(name, params, tags, parent=self.run, resumed=best.run_key) as run:
            self.judge.add_candidates(candidates, best, run)

    def _example(self, stage: FinishedStage) -> dict[str, str] | None:
        """Return a real input of a student; None for candidates, which are logged before the yardstick is made."""
        scorer = None if stage.candidate else self.judge.yardstick.scorer
        return None if scorer is None else scorer.example

    def _log_artifacts(self, stage: FinishedStage, manifest: Manifest, run: TrackedRun) -> None:
        config, folder = stage.config, Path(stage.result.checkpoint.path)
        if run.trained_by is None and not run.has_training:  # otherwise that run has them
            log_training(run, config, (folder / MANIFEST).read_text(encoding="utf-8"))

        def is_missing(artifact: str) -> bool:
            # A process that made the stage may have been killed before it stored this.
            return not stage.result.reused or not is_stored(self.context.tracking, manifest, artifact)

        if isinstance(config.objective, TaskObjective) and is_missing(STUDENT):
            log_student(folder / "model", run, manifest.digest, self._example(stage))
        # The store's own MLflow moves with its checkpoints; any other may be asked from another machine.
        if kind_of(config) == "stage" and not self.context.tracking.is_of_store and is_missing(CHECKPOINT):
            log_checkpoint(folder, run)


def _result_of(checkpoint: CheckpointRef, manifest: Manifest, run: TrackedRun, *, reused: bool) -> StageResult:
    """The result of a stage that another process made."""
    return StageResult(
        checkpoint=checkpoint,
        metrics=manifest.metrics,
        steps=manifest.steps,
        tokens=manifest.tokens,
        seconds=manifest.seconds,
        reused=reused,
        mlflow_run_id=run.run_id,
    )
