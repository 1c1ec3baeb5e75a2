"""The rows of a run's closing table: every checkpoint measured with the run's yardstick, and the baselines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from pipeline.execution.finished_teachers import FinishedStage, TeacherChoice
from pipeline.planning.teacher_notes import rows_of_choice
from pipeline.progress.wording import judged
from pipeline.reporting.run_table import rows_of, score_tags, teacher_lines
from pipeline.reporting.teacher_lacks import with_lacks
from pipeline.reporting.teacher_verdict import check_first, teacher_reports
from pipeline.store.checkpoints import CheckpointStore
from pipeline.tracking.session import TrackedRun
from schemas.core.base import digest_of
from schemas.core.metrics import titled
from schemas.data.stage_data import TaskDataset
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import located
from schemas.results.manifest import BEFORE, Judgement, Row, RowKind, StageResult, TeacherReport
from stages.identity import stage_identity
from stages.judge import (
    Yardstick,
    judge_bag_of_words,
    judge_checkpoint,
    judge_model,
    judge_pretrained,
    judge_start,
    make_yardstick,
)
from stages.ports.protocols import Progress


def kind_of(config: StageConfig) -> RowKind:
    """Kind of a stage's row: a fine-tuned model is a teacher, a student without a teacher a baseline."""
    if config.student is None:
        return "teacher"
    return "baseline" if config.teacher is None else "stage"


class Judge:
    """Measures the models of one recipe's run; judgements are kept in the store, so that none is made twice."""

    def __init__(self, recipe: Recipe, store: CheckpointStore, progress: Progress, teachers: TeacherChoice) -> None:
        self.recipe, self.store, self.progress, self.teachers = recipe, store, progress, teachers
        self.rows: list[Row] = []
        self._trainings: dict[str, StageResult] = {}
        self.teacher_reports: tuple[TeacherReport, ...] = ()
        """Verdict on each fine-tuned teacher, once `check_teachers` has been called."""

    @cached_property
    def yardstick(self) -> Yardstick:
        """The measure of every checkpoint of this run; made when first used, once the first teacher exists."""
        teachers = self.teachers.available.fine_tuned
        first = located(teachers[0], self.store.folder_of) if teachers else None
        return make_yardstick(self.recipe, first, self.store.cache)

    def _judgement(self, digest: str, measure: Callable[[], Judgement]) -> Judgement:
        digest = self.yardstick.digest(digest)
        judgement = self.store.read_judgement(digest)
        if judgement is None:
            judgement = measure()
            self.store.write_judgement(digest, judgement)
        return judgement.model_copy(update={"draws": None, "kept": digest})

    def add_stage(self, stage: FinishedStage, run: TrackedRun, **candidate: Any) -> None:
        """Measure a finished stage, log its scores into its MLflow run, and add its row.

        Args:
            stage: the stage.
            run: its MLflow run.
            candidate: fields of the row that say how a teacher was chosen.
        """
        config, checkpoint = stage.config, stage.result.checkpoint
        self._trainings[checkpoint.path] = stage.result
        # A head for several tasks does not answer for this one; its features are judged.
        labels = stage.labels if isinstance(config.data, TaskDataset) else ()
        judgement = self._judgement(checkpoint.digest, lambda: judge_checkpoint(checkpoint, labels, self.yardstick))
        run.log(stage.result.steps, scores_of(judgement))
        if (scorer := self.yardstick.scorer) is not None:
            run.set_tags(score_tags(scorer.rows.task.positive_label, rows_of(*scorer.counted)))
        self.add_row(stage.row(kind_of(config), judgement, run_id=run.run_id, **candidate))

    def add_candidates(self, group: list[FinishedStage], best: FinishedStage, run: TrackedRun) -> None:
        """Add the rows of a teacher's candidates, the best first; only the best is measured with the yardstick."""
        scorer = self.yardstick.scorer
        title = titled(best.metric, scorer.about(best.metric) if scorer else None)
        self.add_stage(best, run, **best.choice(title))
        for stage in group:
            if stage is not best:
                run_id = stage.result.mlflow_run_id
                self.add_row(stage.row("teacher", stage.judgement, run_id=run_id, chosen=False, **stage.choice(title)))
        self.progress.note(
            f"{best.config.name}: the best of {len(group)} is {best.candidate} ({title} {best.score:.4f} on "
            f"{rows_of_choice(best.config)})"
        )

    def add_row(self, row: Row) -> None:
        """Add a row in place of one that a failed attempt left for the same checkpoint."""
        same = (row.name, row.checkpoint)
        self.rows = [other for other in self.rows if row.checkpoint is None or (other.name, other.checkpoint) != same]
        self.rows.append(row)

    def add_published_teacher(self) -> Judgement:
        """Measure a teacher that this run did not fine-tune, and add its row."""
        yardstick, has_head = self.yardstick, bool(self.teachers.available.fine_tuned)
        judgement = self._judgement(
            yardstick.teacher_digest, lambda: judge_model(yardstick.teacher, yardstick, has_head=has_head)
        )
        self.add_row(Row(name="teacher", kind="teacher", status="given", judgement=judgement))
        return judgement

    def add_start(self, config: StageConfig) -> None:
        """Measure the student before its first stage, and add its row: without it, no gain of that stage is seen.

        Args:
            config: the first stage, which begins a student afresh.
        """
        cache = self.store.cache

        def measure() -> Judgement:
            self.progress.phase("judging the student before its first stage")
            return judge_start(config, self.yardstick, cache)

        # The stage's digest covers all that decides its student.
        judgement = self._judgement(f"start:{digest_of(stage_identity(config, None))}", measure)
        self.add_row(Row(name=BEFORE, kind="stage", status="ran", judgement=judgement))

    def add_bag_of_words(self) -> Judgement:
        """Fit and measure a bag-of-words model, and add its row."""
        judgement = self._bag_of_words()
        self.add_row(Row(name="bag_of_words", kind="baseline", status="ran", judgement=judgement))
        return judgement

    def words(self, judgement: Judgement) -> str:
        """The scores that matter in a few words."""
        task, scorer = self.recipe.task, self.yardstick.scorer
        metric = task.main_metric if task else None
        return judged(judgement, titled(metric, scorer.about(metric) if scorer else None) if metric else None)

    def words_of(self, stage: FinishedStage) -> str:
        """The scores of a finished stage in a few words; empty before it is judged."""
        row = next((row for row in self.rows if row.checkpoint == stage.result.checkpoint), None)
        if row is None:  # a candidate for a teacher, while others are still to be made
            return f"{titled(stage.metric, None)} {stage.score:.4f}" if stage.candidate else ""
        return self.words(row.judgement)

    def _bag_of_words(self) -> Judgement:
        def measure() -> Judgement:
            self.progress.phase("fitting a bag of words")
            return judge_bag_of_words(self.yardstick)

        return self._judgement("bag_of_words", measure)

    def check_teachers(self) -> None:
        """Report on each fine-tuned teacher.

        Raises:
            TeacherError: the first has less than `teacher.minimum_gain` of what can be gained over guessing.
        """
        fine_tuned = self.teachers.available.fine_tuned
        compares_words = "bag_of_words" in self.recipe.baselines and bool(fine_tuned)
        words = self._bag_of_words() if compares_words else None
        reports = teacher_reports(
            self.rows,
            fine_tuned[0] if fine_tuned else None,
            self.yardstick,
            words,
            minimum_gain=self.recipe.teacher.minimum_gain,
        )
        self.teacher_reports = reports
        check_first(reports)
        if reports:
            self.teacher_reports = with_lacks(
                reports, self.rows, self._trainings, bag_of_words=words, pretrained=self._pretrained()
            )
        for report in self.teacher_reports:
            for line in teacher_lines(report):
                self.progress.note(line)

    def _pretrained(self) -> Judgement:
        """Judgement of the pretrained model, which the yardstick's digest covers; fine-tuning has to surpass it."""
        return self._judgement("pretrained", lambda: judge_pretrained(self.recipe, self.yardstick))


def scores_of(judgement: Judgement) -> dict[str, float]:
    """The judgement as metrics, the same names in every stage."""
    values = {name: value for name, value in judgement if isinstance(value, float)}
    parts = {"": judgement.scores, "unseen/": judgement.unseen_scores}
    parts |= {f"{name}/": scores for name, scores in judgement.further.items()}
    scores = {f"{prefix}{name}": score for prefix, part in parts.items() for name, score in part.items()}
    if judgement.minus_teacher is not None:
        scores["minus_teacher"] = judgement.minus_teacher
    for name, score in scores.items():
        values |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return {f"eval/{name}": value for name, value in values.items()}
