"""Verdicts on fine-tuned teachers before a student is trained: good enough to distil from or not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.reporting.run_table import percent
from pipeline.reporting.teacher_lacks import is_clearly_above
from schemas.core.errors import TeacherError
from schemas.core.metrics import MetricName
from schemas.recipe.teacher import FinetunedTeacher
from schemas.results.manifest import Judgement, LabelOrder, Row, TeacherReport
from schemas.results.score import Score
from stages.judge import Yardstick, chance
from stages.models.encoders import load_config, locate
from stages.models.heads import output_names

Verdict = Literal["good", "weak", "useless"]


def teacher_reports(
    rows: Sequence[Row],
    first: FinetunedTeacher | None,
    yardstick: Yardstick,
    bag_of_words: Judgement | None,
    *,
    minimum_gain: float,
) -> tuple[TeacherReport, ...]:
    """A report on each fine-tuned teacher of a run that has a score to be compared with guessing.

    Args:
        rows: of the run so far.
        first: the first teacher; None where none is fine-tuned.
        yardstick: what they were measured with.
        bag_of_words: what such a model gets; None where the recipe has no such baseline.
        minimum_gain: share of what is left to gain over guessing that a teacher must have gained.
    """
    metric = yardstick.metric
    guess = chance(yardstick).get(metric)
    if guess is None or first is None:
        return ()
    reports = []
    for row in rows:
        if row.kind != "teacher" or not row.chosen:
            continue
        score = row.judgement.scores.get(metric)
        if score is None:  # a head for several tasks, or none
            continue
        words = None if bag_of_words is None else bag_of_words.scores.get(metric)
        is_first = row.name == "teacher"
        measured = _Measured(
            score,
            guess,
            minimum_gain,
            None if words is None else words.value,
            bag_of_words.minus_teacher if bag_of_words is not None and is_first else None,
            _label_order(first if row.status == "given" else None, yardstick),
            yardstick if is_first else None,
        )
        reports.append(measured.report(row.name, metric))
    return tuple(reports)


def _label_order(teacher: FinetunedTeacher | None, yardstick: Yardstick) -> LabelOrder | None:
    """Return how a given teacher's outputs relate to the task's labels; a teacher fine-tuned here has them in order."""
    assert yardstick.scorer is not None
    labels = yardstick.scorer.rows.task.labels
    names = labels if teacher is None else output_names(load_config(locate(teacher.model)))
    return yardstick.scorer.kind.output_order(names, labels)


@dataclass(frozen=True)
class _Measured:
    """Measurements of a teacher, and the verdict that follows."""

    score: Score
    guess: float
    minimum_gain: float
    """Share of the possible gain over guessing that a teacher must reach."""
    words: float | None
    words_minus_teacher: Score | None
    """Difference on the same rows; None where it was not measured."""
    order: LabelOrder | None
    yardstick: Yardstick | None
    """Holds the teacher's answers; None for all teachers but the first."""

    @property
    def needed(self) -> float:
        """Lowest acceptable score."""
        return self.guess + self.minimum_gain * (1 - self.guess)

    @property
    def gain(self) -> float | None:
        """Share of the possible gain over guessing that the teacher reaches; None where guessing is always right."""
        return (self.score.value - self.guess) / (1 - self.guess) if self.guess < 1 else None

    def report(self, name: str, metric: MetricName) -> TeacherReport:
        """Return the report, with verdict and reason."""
        verdict = self.verdict
        return TeacherReport(
            name=name,
            metric=metric,
            score=self.score,
            guess=self.guess,
            margin=self.score.value - self.guess,
            gain=self.gain,
            bag_of_words=self.words,
            label_order=self.order,
            verdict=verdict,
            reason=self.reason(verdict),
        )

    @property
    def verdict(self) -> Verdict:
        """The verdict: good enough to distil from, weak, or useless."""
        is_above = self.score.value > self.guess or self.minimum_gain == 0
        if self.score.value < self.needed or not is_above:
            return "useless"
        by_words = self.words is not None and self.score.value <= self.words
        is_weak = by_words or self.may_equal_words or self.score.low < self.needed or self.doubt
        return "weak" if is_weak else "good"

    @property
    def may_equal_words(self) -> bool:
        """True if the interval of the difference on the same rows does not put the teacher above a bag of words."""
        return self.words_minus_teacher is not None and not is_clearly_above(self.words_minus_teacher)

    @property
    def doubt(self) -> str | None:
        """Reason to doubt the teacher's answers that no score shows; None without one."""
        yardstick = self.yardstick
        if yardstick is None or yardstick.scorer is None or not yardstick.has_head:
            return None
        return yardstick.scorer.kind.doubt(yardstick.scorer.rows, lambda: yardstick.teacher_answers)

    def reason(self, verdict: Verdict) -> str:
        """Return the reason for a verdict."""
        if verdict == "good":
            return (
                f"it is {percent(self.score.value - self.guess)} points above always giving the best constant answer, "
                f"{percent(self.gain)} % of what can be gained over it, and no draw of the rows speaks against it"
            )
        if verdict == "useless":
            return self._useless()
        if doubt := self.doubt:
            return doubt
        if self.words is not None and self.score.value <= self.words:
            return (
                f"a bag of words scores {percent(self.words)} %, no less, so that there is little to learn from it: "
                "train it longer, or take another teacher"
            )
        if self.may_equal_words and self.score.low >= self.needed:
            return (
                f"a bag of words scores {percent(self.words)} %, and by the rows that both answered the teacher may be "
                "no better: train it longer, or give more validation rows"
            )
        return (
            f"by so few validation rows its score may lie below the {percent(self.needed)} % that a teacher needs: "
            "give more of them, or train it longer"
        )

    def _useless(self) -> str:
        if self.guess >= 1:
            return (
                "always giving one and the same answer is right in every validation row, so that no score could tell "
                "a teacher from that: give validation rows with other answers too"
            )
        message = (
            f"the fine-tuned teacher scores {percent(self.score.value)} % where always giving the best constant answer "
            f"scores {percent(self.guess)} %"
        )
        if self.score.value > self.guess:
            message += (
                f", {percent(self.gain)} % of what can be gained over it, and teacher.minimum_gain asks for "
                f"{percent(self.minimum_gain)} %"
            )
        return f"{message}; a student can learn nothing of the task from it: {self._remedy()}"

    def _remedy(self) -> str:
        """Return advice about a useless teacher, depending on its answers."""
        general = "train it longer (teacher.task_model.training), check the labels, or lower teacher.minimum_gain"
        answers = None if self.yardstick is None else self.yardstick.teacher_answers
        if self.yardstick is None or answers is None:
            return general
        # Values that are equal except for rounding have a note.
        if self.score.note or all(np.array_equal(answer, answers[0]) for answer in answers):
            return (
                "it gives every row the same answer, as a fine-tuning does that has collapsed: lower its learning "
                f"rate, try other seeds (teacher.task_model.seeds), or {general}"
            )
        scorer = self.yardstick.scorer
        renamed = None if scorer is None else scorer.kind.renamed(scorer.rows, answers)
        if self.order == "unnamed" and scorer is not None and renamed is not None:
            classes, names = renamed
            if (score := scorer.score(self.yardstick.metric, classes)) >= self.needed:
                return (
                    f"its outputs have no names, and read as {', '.join(names)} they would score {percent(score)} %: "
                    "set task.labels to that order if it is the teacher's"
                )
        return general


def check_first(reports: Sequence[TeacherReport]) -> None:
    """Refuse to learn from a first teacher that is hardly better than guessing.

    Raises:
        TeacherError: with what to do.
    """
    for report in reports:
        if report.name == "teacher" and report.verdict == "useless":
            raise TeacherError(report.reason)
