"""Selection of a stage's best weights by scores of its head, measured during training on rows it is not trained on.

Best weights, their score and the number of measurements without gain are part of the training state, so that an
interrupted stage selects the same weights as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from schemas.core.errors import CheckpointError
from schemas.core.metrics import MetricName, titled
from schemas.core.training import Selection
from stages.data.batching.batches import Batches
from stages.data.tasks.stratified import drawn_from
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.evaluation.stage_scores import MEAN_SCORE
from stages.evaluation.task_part import TaskPart
from stages.ports.world import World


class Selector:
    """Scores a student at intervals, keeps its best weights, and ends training when scores stop improving."""

    def __init__(self, selection: Selection, parts: Sequence[TaskPart], teachers: Sequence[nn.Module]) -> None:
        """Create a selector; nothing is scored yet.

        Args:
            selection: interval, metric and patience.
            parts: tasks of the student's head.
            teachers: teachers of the stage; vectors are compared with the first teacher's.
        """
        self.selection = selection
        self.parts = tuple(parts)
        self.scorers = [_scorer(part, selection) for part in parts]
        self.teachers = teachers
        self.metric = self.title = MEAN_SCORE
        if len(parts) == 1:
            self.metric = _metric(parts[0], selection)
            self.title = titled(self.metric, self.scorers[0].about(self.metric))
        self.best: dict[str, Tensor] = {}
        """The best weights so far, on the CPU; empty before the first measurement."""
        self.best_step = 0
        self.best_score = self.score = -np.inf
        self.without_gain = 0
        self._round = self._due = 0

    def is_due(self, step: int, batches: Batches, num_steps: int) -> bool:
        """Return whether the student is scored after `step` of `num_steps` steps."""
        every = self.selection.every
        while self._due < step:
            self._round += 1
            duration = every.model_copy(update={"amount": every.amount * self._round})
            self._due = batches.num_steps(duration)
        return step in (self._due, num_steps)

    @property
    def is_over(self) -> bool:
        """True if training ends, because `patience` measurements brought no gain."""
        patience = self.selection.patience
        return patience is not None and self.without_gain >= patience

    def measure(self, step: int, student: nn.Module, objective: nn.Module, world: World) -> dict[str, float]:
        """Score the student, keep its weights if they are the best so far, and return the metrics.

        Every process scores, so that none waits for another, and takes the score of the first.
        """
        (self.score,) = world.of_first([self._score_of(student)])
        student.train()
        if not self.best or self.score > self.best_score:
            self.best_step, self.best_score, self.without_gain = step, self.score, 0
            self.best = {
                f"{name}.{key}": tensor.detach().to("cpu", copy=True)
                for name, module in (("student", student), ("objective", objective))
                for key, tensor in module.state_dict().items()
            }
        else:
            self.without_gain += 1
        return self.metrics()

    def _score_of(self, student: nn.Module) -> float:
        device = next(student.parameters()).device
        scores = []
        for index, part in enumerate(self.parts):
            scorer = self.scorers[index]
            if not scorer.can_score:
                scorer = scorer.with_teacher(scorer.answers_of(self.teachers[0].to(device)))
                self.scorers[index] = scorer
            answers = scorer.answers_of(student, part.outputs)
            scores.append(scorer.score(_metric(part, self.selection), answers))
        return float(np.mean(scores))

    def metrics(self) -> dict[str, float]:
        """Return the last score, the best score, and the step of the best."""
        return {
            f"select/{self.metric}": self.score,
            f"select/best_{self.metric}": self.best_score,
            "select/best_step": float(self.best_step),
        }

    def restore_best(self, student: nn.Module, objective: nn.Module) -> None:
        """Load the best weights into student and projections."""
        for name, module in (("student", student), ("objective", objective)):
            module.load_state_dict(_part(self.best, f"{name}."))

    def numbers(self) -> dict[str, float]:
        """Return the numbers of a training state, besides the best weights."""
        return {
            "select_best_step": self.best_step,
            "select_best_score": self.best_score,
            "select_score": self.score,
            "select_without_gain": self.without_gain,
        }

    def restore(self, best: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        """Continue from a training state.

        Raises:
            CheckpointError: the state belongs to a stage without selection.
        """
        if "select_best_step" not in numbers:
            raise CheckpointError(
                "the kept state has no best weights; delete the stage's folder under states/ to restart the stage"
            )
        self.best = dict(best)
        self.best_step = int(numbers["select_best_step"])
        self.best_score = float(numbers["select_best_score"])
        self.score = float(numbers["select_score"])
        self.without_gain = int(numbers["select_without_gain"])


def _metric(part: TaskPart, selection: Selection) -> MetricName:
    return selection.metric or part.task.main_metric


def _scorer(part: TaskPart, selection: Selection) -> AnyScorer:
    if part.held_out is not None:
        return scorer_of(part.rows, "train", part.train, part.held_out)
    chosen = drawn_from(part.rows.validation, part.rows.problem, selection.max_rows)
    return scorer_of(part.rows, "validation", part.validation, chosen)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
