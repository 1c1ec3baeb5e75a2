"""Sentences on what a usable teacher still lacks, each with the change of the recipe that may remedy it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.reporting.run_table import percent
from schemas.core.metrics import MetricName
from schemas.results.manifest import Judgement, Row, StageResult, TeacherReport
from schemas.results.score import Score

_TRAINING = "teacher.task_model.training"


def lacks_of(
    teacher: Judgement,
    metric: MetricName,
    *,
    training: StageResult | None,
    bag_of_words: Judgement | None,
    pretrained: Judgement | None,
) -> Iterator[str]:
    """Yield one sentence for each weakness that was measured.

    Args:
        teacher: the teacher's scores.
        metric: the task's main score.
        training: its fine-tuning in this project; None for a published teacher.
        bag_of_words: judgement of a bag-of-words model; None without that baseline, or for a further teacher.
        pretrained: judgement of the pretrained model, which has a linear probe; None if it was not measured.
    """
    if bag_of_words is not None and bag_of_words.minus_teacher is not None:
        yield from _beside_words(bag_of_words.minus_teacher, is_made=training is not None)
    if pretrained is not None and pretrained.probed is not None:
        if pretrained.probe_accuracy is not None:
            metric = "accuracy"
        yield from _beside_probe(teacher.scores.get(metric), metric, pretrained.probed, is_made=training is not None)
    if training is not None:
        yield from _convergence(training)


def with_lacks(
    reports: Sequence[TeacherReport],
    rows: Sequence[Row],
    trainings: Mapping[str, StageResult],
    *,
    bag_of_words: Judgement | None,
    pretrained: Judgement | None,
) -> tuple[TeacherReport, ...]:
    """Return the reports with what each teacher lacks; the baselines are compared with the first teacher.

    Args:
        reports: verdicts on the teachers among `rows`, in their order.
        rows: rows of the run.
        trainings: fine-tunings of this run, by the path of their checkpoint.
        bag_of_words: judgement of a bag-of-words model; None without that baseline.
        pretrained: judgement of the pretrained model, which has a linear probe; None if it was not measured.
    """
    completed = []
    judged = (row for row in rows if row.kind == "teacher" and row.chosen)
    for report in reports:
        # Rows without the score have no report.
        row = next(row for row in judged if row.judgement.scores.get(report.metric) == report.score)
        is_first = report.name == "teacher"
        lacks = lacks_of(
            row.judgement,
            report.metric,
            training=trainings.get(row.checkpoint.path) if row.checkpoint else None,
            bag_of_words=bag_of_words if is_first else None,
            pretrained=pretrained if is_first else None,
        )
        completed.append(report.model_copy(update={"lacks": tuple(lacks)}))
    return tuple(completed)


def is_clearly_above(words_minus_teacher: Score) -> bool:
    """Return whether the interval of the difference on the same rows puts the teacher above a bag of words."""
    return words_minus_teacher.high < 0


def _beside_words(difference: Score, *, is_made: bool) -> Iterator[str]:
    if is_clearly_above(difference):
        return
    value, low, high = (f"{0.0 - 100 * end:+.1f}" for end in (difference.value, difference.high, difference.low))
    remedy = f"train it on more tokens ({_TRAINING}.duration)" if is_made else "take a better teacher"
    yield (
        f"it is not clearly above a bag of words: {value} points (95 % interval {low} to {high}, on the same rows); "
        f"{remedy}, or add validation rows"
    )


def _beside_probe(score: Score | None, metric: MetricName, probe: float, *, is_made: bool) -> Iterator[str]:
    if score is None or score.value > probe:
        return
    remedy = "take another teacher, or fine-tune this one (teacher.task_model.kind=fine_tune)"
    if is_made:
        remedy = (
            f"fine-tuning has distorted features that were good: lower {_TRAINING}.optimizer.learning_rate, set "
            f"{_TRAINING}.head_first, or train longer"
        )
    yield (
        f"its {metric} of {percent(score.value)} % is not above the {percent(probe)} % of a linear probe on the frozen "
        f"features of the pretrained model; {remedy}"
    )


def _convergence(training: StageResult) -> Iterator[str]:
    metrics = training.metrics
    best_step = metrics.get("select/best_step")
    more = f"more tokens may make it better ({_TRAINING}.duration)"
    if best_step is not None:
        if best_step == training.steps:
            yield f"its best score was that of the last measurement, at step {training.steps}: {more}"
        return
    train, held_out = metrics.get("train/loss"), metrics.get("eval/loss")
    if train is not None and held_out is not None and held_out <= train:
        yield (
            f"its loss of {held_out:.3f} on validation rows is not above that of {train:.3f} in training, so that it "
            f"was still learning when training ended: {more}"
        )
