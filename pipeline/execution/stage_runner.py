"""One run's hands: finds a stage done or runs it, judges it, logs it, and keeps the rows of the closing table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pipeline.planning.teacher_choice import Tried, best_of, candidate_of, metric_of, row_of_tried
from pipeline.process.stopping import Stop, interrupted
from pipeline.reporting.loss_curves import loss_curves
from pipeline.reporting.run_table import rows_of, score_tags, teacher_line
from pipeline.reporting.teacher_verdict import check_first, teacher_reports
from pipeline.reporting.term_map import term_map
from pipeline.store.checkpoints import CheckpointStore, verify
from pipeline.store.open_runs import OpenRun, needs_of
from pipeline.tracking.artifacts import CHECKPOINT, STUDENT, is_stored, log_checkpoint, log_student
from pipeline.tracking.client import CHECKPOINT_TAG
from pipeline.tracking.session import TrackedRun, Tracking
from schemas.core.base import digest_of
from schemas.core.errors import Interrupted
from schemas.core.metrics import titled
from schemas.data.stage_data import TaskDataset, describe_data
from schemas.data.tasks import describe_task
from schemas.recipe.expand import TaskTeachers, finished_teacher, task_teachers, teacher_candidates
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import STAGE_ORDER, TEACHER_NAMES, StageConfig
from schemas.recipe.teacher import FinetunedTeacher
from schemas.results.manifest import CheckpointRef, Judgement, Manifest, Row, StageResult, TeacherReport
from stages.identity import changed_since, stage_identity
from stages.judge import Yardstick, judge_bag_of_words, judge_checkpoint, judge_model, make_yardstick
from stages.ports.protocols import Ports, Progress
from stages.run import run_stage

CANDIDATE_TAG, CHOSEN_TAG = "distill.candidate", "distill.chosen"

_KINDS: dict[str, Literal["teacher", "baseline"]] = {
    **dict.fromkeys(TEACHER_NAMES, "teacher"),
    "hard_label_baseline": "baseline",
}


class Runner:
    """A `StageRunner` for one recipe, one store and one MLflow parent run."""

    def __init__(
        self,
        recipe: Recipe,
        store: CheckpointStore,
        tracking: Tracking,
        parent_run: TrackedRun,
        progress: Progress,
        stop: Stop,
        task: str | None = None,
        open_run: OpenRun | None = None,
    ) -> None:
        self.recipe, self.store, self.tracking = recipe, store, tracking
        self.task = task
        """Which of several tasks the runs are named after; None where there is one, or for what several share."""
        self.parent_run, self.progress, self.stop = parent_run, progress, stop
        self.open_run = open_run
        """Where the stages are noted that must stay; None where nothing is taken away meanwhile."""
        self.rows: list[Row] = []
        self.teacher_reports: tuple[TeacherReport, ...] = ()
        """Whether each fine-tuned teacher is good enough, once they have been checked."""
        self._made: dict[str, FinetunedTeacher] = {}
        self._tried: dict[str, Tried] = {}
        self._yardstick: Yardstick | None = None

    @property
    def teachers(self) -> TaskTeachers:
        """The teachers that know the task, as far as they are there."""
        return task_teachers(self.recipe, self._made)

    def called(self, name: str) -> str:
        """A stage's name for people: `general`, or `mrpc/general` where there are several tasks."""
        return f"{self.task}/{name}" if self.task else name

    def _candidates(self, config: StageConfig) -> tuple[StageConfig, ...]:
        """A teacher and the others that are tried in its place, which come one after the other; alone for a student."""
        groups = {} if config.student is not None else teacher_candidates(self.recipe)
        return next((group for group in groups.values() if config in group), (config,))

    def _title(self, config: StageConfig) -> str:
        """A stage's name for people, with what tells a teacher from others that are tried in its place."""
        candidate = candidate_of(config, self._candidates(config))
        return f"{config.name} ({candidate})" if candidate else config.name

    def __call__(self, config: StageConfig, parent: CheckpointRef | None) -> StageResult:
        """The stage's result: found in the store, or made now; judged and logged either way."""
        identity = stage_identity(config, parent.digest if parent else None)
        digest = digest_of(identity)
        # Noted before it is looked for, or it could be taken away in between.
        if self.open_run is not None:
            self.open_run.needs({digest, *needs_of(config, parent)})
        with interrupted(self.called(config.name)), self.store.lock(config.name, digest):
            found = self.store.find(config.name, digest)
            if found is not None:
                return self._reuse(config, *found)
            return self._run(config, parent, identity)

    def _reuse(self, config: StageConfig, checkpoint: CheckpointRef, manifest: Manifest) -> StageResult:
        verify(Path(checkpoint.path))
        title = self._title(config)
        self.progress.note(f"{title}: there already, reused ({checkpoint.path})")
        child = self.tracking.reused_run(
            self.called(title),
            config.model_dump(mode="json"),
            self._tags(config, manifest.digest, checkpoint.path),
            parent=self.parent_run,
            manifest=manifest,
        )
        result = StageResult(
            checkpoint=checkpoint,
            metrics=manifest.metrics,
            steps=manifest.steps,
            tokens=manifest.tokens,
            seconds=manifest.seconds,
            reused=True,
            mlflow_run_id=child.run_id,
        )
        self._conclude(config, result, manifest.labels, child)
        return result

    def _run(self, config: StageConfig, parent: CheckpointRef | None, identity: dict[str, Any]) -> StageResult:
        digest = digest_of(identity)
        tags = self._tags(config, digest)
        child = self.tracking.start_run(
            self.called(self._title(config)),
            config.model_dump(mode="json"),
            tags,
            parent=self.parent_run,
            resumed=self.tracking.unfinished_run(digest),
        )
        self._log_data(config, identity["data"], child)
        status = "FAILED"
        try:
            ports = Ports(
                sink=child,
                progress=self.progress,
                states=self.store.states(config.name, digest, needs_of(config, parent)),
                checkpoints=self.store.writer(config.name, digest),
                cache=self.store.cache,
                mlflow_run_id=child.run_id,
                log_every=self.recipe.execution.log_every,
                microbatch_tokens=self.recipe.execution.microbatch_tokens,
                state_minutes=self.recipe.execution.state_minutes,
                gradient_share_every=self.recipe.execution.gradient_share_every,
                teacher_cache_bytes=round(self.recipe.execution.teacher_cache_gigabytes * 1e9),
                stop_requested=self.stop,
                shielded=self.stop.shielded,
            )
            result = run_stage(config, parent, ports, identity)
            child.set_tags({CHECKPOINT_TAG: result.checkpoint.path})
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            if status != "FINISHED":
                child.finish(status)
        if changed := changed_since(identity, config, parent.digest if parent else None):
            self.progress.note(
                f"{self._title(config)}: since it began, {changed}; it learned from what was there then, and the next "
                "run will make it anew"
            )
        manifest = verify(Path(result.checkpoint.path))
        self._conclude(config, result, manifest.labels, child)
        return result

    def _tags(self, config: StageConfig, digest: str, checkpoint: str | None = None) -> dict[str, str]:
        tags = {"distill.stage": config.name, "distill.digest": digest, "distill.recipe": self.recipe.name}
        if self.recipe.task is not None:
            tags["distill.task"] = self.task or describe_task(self.recipe.task)
        if candidate := candidate_of(config, self._candidates(config)):
            tags[CANDIDATE_TAG] = candidate
        return tags | ({CHECKPOINT_TAG: checkpoint} if checkpoint else {})

    def _log_data(self, config: StageConfig, digest: str, child: TrackedRun) -> None:
        data = config.data
        child.log_dataset(describe_data(data), digest, data.model_dump_json())

    def _conclude(self, config: StageConfig, result: StageResult, labels: tuple[str, ...], child: TrackedRun) -> None:
        """Judge the stage, put its row into the table and its artifacts beside its numbers; then its run has ended."""
        status = "FAILED"
        try:
            self._judge_and_log(config, result, labels, child)
            status = "FINISHED"
        finally:
            child.finish(status)
        if len(self._tried) == len(self._candidates(config)) > 1:
            self._choose(list(self._tried.values()))
            self._tried = {}

    def _judge_and_log(
        self, config: StageConfig, result: StageResult, labels: tuple[str, ...], child: TrackedRun
    ) -> None:
        if len(candidates := self._candidates(config)) > 1:
            candidate = candidate_of(config, candidates) or ""
            tried = Tried(config, result, labels, child.points.stem, candidate)
            self._tried[result.checkpoint.digest] = tried
            self._log_artifacts(config, result, child)
            return
        if config.student is None:
            self._note_teacher(config, result.checkpoint)
        self._judge_row(config, result, labels, child)
        self._log_artifacts(config, result, child)

    def _note_teacher(self, config: StageConfig, checkpoint: CheckpointRef) -> None:
        teacher = finished_teacher(str(Path(checkpoint.path) / "model"), checkpoint.digest)
        groups = teacher_candidates(self.recipe)
        self._made |= {path: teacher for path, group in groups.items() if config in group}

    def _add_row(self, row: Row) -> None:
        """Put a row into the table; one of a try that failed afterwards goes."""
        self.rows = [
            each
            for each in self.rows
            if (each.name, each.checkpoint) != (row.name, row.checkpoint) or row.checkpoint is None
        ]
        self.rows.append(row)

    def _choose(self, tried: list[Tried]) -> None:
        """Make the best candidate the teacher; its row, by the whole yardstick, comes before those of the others."""
        best = tried[best_of([each.score for each in tried])]
        config, checkpoint = best.config, best.result.checkpoint
        child = self.tracking.start_run(
            self.called(self._title(config)),
            config.model_dump(mode="json"),
            self._tags(config, checkpoint.digest, checkpoint.path) | {CHOSEN_TAG: "true"},
            parent=self.parent_run,
            resumed=best.run,
        )
        self._note_teacher(config, checkpoint)
        self._judge_row(config, best.result, best.labels, child)
        child.finish("FINISHED")
        metric, scorer = metric_of(config), self.yardstick.scorer
        title = titled(metric, scorer.about(metric) if scorer else None)
        named = {"candidate": best.candidate, "candidate_score": best.score, "candidate_metric": title}
        self.rows[-1] = self.rows[-1].model_copy(update=named)
        for each in tried:
            if each is not best:
                self._add_row(row_of_tried(each, title))
        self.progress.note(f"{config.name}: the best of {len(tried)} is {best.candidate} ({title} {best.score:.4f})")

    def _judge_row(self, config: StageConfig, result: StageResult, labels: tuple[str, ...], child: TrackedRun) -> None:
        # A head for several tasks is not asked this one's questions; its features are.
        own = labels if isinstance(config.data, TaskDataset) else ()
        judgement = self.judge(result.checkpoint, own)
        child.log(result.steps, scores_of(judgement))
        if (scorer := self.yardstick.scorer) is not None:
            child.set_tags(score_tags(scorer.rows.task.positive_label, rows_of(*scorer.counted)))
        self._add_row(
            Row(
                name=config.name,
                kind=_KINDS.get(config.name, "stage"),
                status="reused" if result.reused else "ran",
                judgement=judgement,
                tokens=result.tokens,
                seconds=result.seconds,
                checkpoint=result.checkpoint,
                mlflow_run_id=child.run_id,
            )
        )

    def _log_artifacts(self, config: StageConfig, result: StageResult, child: TrackedRun) -> None:
        folder = Path(result.checkpoint.path)
        child.log_file(config.model_dump_json(indent=2), "config.json")
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        child.log_file(text, "manifest.json")
        if child.points.is_file():
            child.log_file(loss_curves(child.points, config.name), "curves.png")
            child.log_file(term_map(child.points, config.name), "terms.png")
        stage = Manifest.model_validate_json(text)

        def is_missing(artifact: str) -> bool:
            # Who made it may have been killed before it came to this.
            return not result.reused or not is_stored(self.tracking, stage, artifact)

        if config.name == "task_specific" and is_missing(STUDENT):
            log_student(folder / "model", child)
        # The store's own MLflow goes where its checkpoints go; any other may be asked from another machine.
        if config.name in STAGE_ORDER and not self.tracking.is_of_store and is_missing(CHECKPOINT):
            log_checkpoint(folder, child)

    @property
    def yardstick(self) -> Yardstick:
        """What every checkpoint of this run is measured with; made when first needed."""
        if self._yardstick is None:
            first = self.teachers.fine_tuned[:1]
            self._yardstick = make_yardstick(self.recipe, first[0] if first else None, self.store.cache)
        return self._yardstick

    def judge(self, checkpoint: CheckpointRef, labels: tuple[str, ...]) -> Judgement:
        """The checkpoint's scores, kept in the store so that nothing is judged twice."""
        digest = self.yardstick.digest(checkpoint.digest)
        kept = self.store.read_judgement(digest)
        if kept is None:
            kept = judge_checkpoint(checkpoint, labels, self.yardstick)
            self.store.write_judgement(digest, kept)
        return kept

    def judge_given_teacher(self) -> None:
        """The row of a teacher that this run did not make."""
        digest = self.yardstick.digest(self.yardstick.teacher_digest)
        judgement = self.store.read_judgement(digest)
        if judgement is None:
            judgement = judge_model(self.yardstick.teacher, self.yardstick, has_head=bool(self.teachers.fine_tuned))
            self.store.write_judgement(digest, judgement)
        self.rows.append(Row(name="teacher", kind="teacher", status="given", judgement=judgement))

    def _bag_of_words(self) -> Judgement:
        """What a bag-of-words model gets, kept in the store."""
        digest = self.yardstick.digest("bag_of_words")
        judgement = self.store.read_judgement(digest)
        if judgement is None:
            self.progress.note("bag_of_words: fitting")
            judgement = judge_bag_of_words(self.yardstick)
            self.store.write_judgement(digest, judgement)
        return judgement

    def add_bag_of_words(self) -> None:
        """The row of a bag-of-words classifier."""
        judgement = self._bag_of_words()
        self.rows.append(Row(name="bag_of_words", kind="baseline", status="ran", judgement=judgement))

    def check_teacher(self) -> None:
        """Say of each fine-tuned teacher whether it is good enough, and refuse a first one that is of no use.

        Raises:
            TeacherError: it has less than `teacher.minimum_gain` of what is left to gain over guessing.
        """
        fine_tuned = self.teachers.fine_tuned
        words = "bag_of_words" in self.recipe.baselines and bool(fine_tuned)
        self.teacher_reports = teacher_reports(
            self.rows,
            fine_tuned[0] if fine_tuned else None,
            self.yardstick,
            self._bag_of_words() if words else None,
            minimum_gain=self.recipe.teacher.minimum_gain,
        )
        check_first(self.teacher_reports)
        for report in self.teacher_reports:
            self.progress.note(teacher_line(report))


def scores_of(judgement: Judgement) -> dict[str, float]:
    """The judgement as metrics, the same names in every stage."""
    values = {name: value for name, value in judgement if isinstance(value, float)}
    parts = {"": judgement.scores, "unseen/": judgement.unseen_scores}
    parts |= {f"{name}/": scores for name, scores in judgement.further.items()}
    named = {f"{at}{name}": score for at, scores in parts.items() for name, score in scores.items()}
    if judgement.minus_teacher is not None:
        named["minus_teacher"] = judgement.minus_teacher
    for name, score in named.items():
        values |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return {f"eval/{name}": value for name, value in values.items()}
