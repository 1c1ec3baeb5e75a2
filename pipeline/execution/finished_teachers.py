"""The teachers of a run: the best of each teacher's finished fine-tunings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.planning.candidates import best_of, candidate_of, metric_of, score_of
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import TaskTeachers, made_teacher, task_teachers, teacher_candidates
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import FinetunedTeacher
from schemas.results.manifest import Judgement, Row, RowKind, StageResult
from stages.evaluation.stage_scores import MEAN_SCORE


@dataclass(frozen=True)
class FinishedStage:
    """A stage that was run or found in the store."""

    config: StageConfig
    result: StageResult
    labels: tuple[str, ...]
    """Outputs of its head; empty without one."""
    run_key: str
    """Key of its MLflow run."""
    candidate: str | None
    """Settings that distinguish a teacher from the other candidates for its place; None where it is the only one."""

    @property
    def metric(self) -> str:
        """Name of the score by which it is chosen."""
        return metric_of(self.config)

    @property
    def score(self) -> float:
        """The score by which it is chosen."""
        return score_of(self.config, self.result.metrics)

    @property
    def judgement(self) -> Judgement:
        """The scores that its fine-tuning reported."""
        metrics, data = self.result.metrics, self.config.data
        main = data.task.main_metric if isinstance(data, TaskDataset) else MEAN_SCORE
        return Judgement(task_metric=metrics.get(f"eval/{main}"), accuracy=metrics.get("eval/accuracy"))

    def choice(self, metric_title: str) -> dict[str, Any]:
        """Fields of its row that say by which score it was compared with the other candidates."""
        return {"candidate": self.candidate, "candidate_score": self.score, "candidate_metric": metric_title}

    def row(self, kind: RowKind, judgement: Judgement, *, run_id: str | None, **fields: Any) -> Row:
        """Its row in the closing table."""
        return Row(
            name=self.config.name,
            kind=kind,
            status="reused" if self.result.reused else "ran",
            judgement=judgement,
            tokens=self.result.tokens,
            seconds=self.result.seconds,
            checkpoint=self.result.checkpoint,
            mlflow_run_id=run_id,
            **fields,
        )


class TeacherChoice:
    """The finished fine-tunings of a recipe's teachers, by their path in the recipe; they may finish in any order."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._groups = teacher_candidates(recipe)
        self._finished: list[FinishedStage] = []
        self._teachers: dict[str, FinetunedTeacher] = {}

    def candidate_of(self, config: StageConfig) -> str | None:
        """Settings that distinguish a fine-tuning from the other candidates for its place; None where it is alone."""
        return candidate_of(config, self._group(config))

    def _group(self, config: StageConfig) -> tuple[StageConfig, ...]:
        return next((group for group in self._groups.values() if config in group), (config,))

    def add(self, stage: FinishedStage) -> list[FinishedStage]:
        """Add a finished fine-tuning; returns all candidates for its place once the last has finished, else none."""
        self._finished = [other for other in self._finished if other.config != stage.config] + [stage]
        group = self._group(stage.config)
        candidates = [other for config in group for other in self._finished if other.config == config]
        return candidates if len(candidates) == len(group) else []

    def choose(self, candidates: list[FinishedStage]) -> FinishedStage:
        """Make the candidate with the best score the teacher; among equals the first in the recipe wins."""
        best = candidates[best_of([stage.score for stage in candidates]) if len(candidates) > 1 else 0]
        teacher = made_teacher(best.config.name, best.result.checkpoint.digest)
        self._teachers |= {path: teacher for path, group in self._groups.items() if best.config in group}
        return best

    @property
    def available(self) -> TaskTeachers:
        """The published and chosen teachers that know the task."""
        return task_teachers(self._recipe, self._teachers)
