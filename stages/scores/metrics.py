"""Scores of answers against labels, and their bootstrap intervals.

The form of labels and predictions depends on the kind of task:

| kind | labels | predictions |
|---|---|---|
| classification | (rows,) class numbers | (rows,) class numbers |
| multi_label | (rows, labels) zeros and ones | the same |
| regression | (rows,) values | (rows,) values |
| token_classification | a list of tags for each sentence | the same |
| question_answering | a list of right answers per question, empty for none | one answer per question, "" for none |
| embedding | (rows, width) the teacher's vectors | (rows, width) the student's, of any width |

`pearson` and `spearman` also score an embedding task whose pairs have a similarity: (rows,) the data's, and (rows,)
cosines of the student's vectors.

An undefined score (correlation with a constant, F1 without a single positive) is 0, silently: a model with constant
answers is a bad model, not a failed run. `schemas.core.metrics` lists the scores and the kinds that they suit.

scikit-learn and scipy compute the scores that they have; they are imported when first needed, because `distill plan`
scores nothing. nervaluate reads entities by the rule of conlleval (Tjong Kim Sang and De Meulder 2003): an entity
begins at B-, at an I- after O or at the start, and at a change of type. It has no dependencies and was last released
in 2026; seqeval, better known and with the same rule, in 2020, as source only. conlleval's F1 then follows from the
entities in common and those of either side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from nervaluate import collect_named_entities
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.metrics import ABOUT_ONE_CLASS, KNOWN_METRICS, MetricName
from schemas.core.wording import printable
from stages.scores.answer_text import AnswerScore, answer_scores, cmrc_exact_match, cmrc_f1, exact_match, squad_f1
from stages.scores.bootstrap import (
    Resampler,
    f1_of,
    of_both,
    of_f1_macro,
    of_matthews,
    of_mean,
    of_pearson,
    of_spearman,
    of_sums,
    ratio,
)
from stages.scores.vector_scores import of_cosines, of_similarities

_ROUNDING = 1e-6
_POSITIVE = 1
"""The class that `f1` is about, as in scikit-learn; another positive class is exchanged with it first."""

Array = NDArray[Any]
Tags = Sequence[Sequence[str]]
Answers = Array | Sequence[Any]
"""Labels or predictions of some rows, in one of the forms above."""

Right = TypeVar("Right")
Given = TypeVar("Given")


@dataclass(frozen=True)
class Metric(Generic[Right, Given]):
    """A score: its value, and its resampler."""

    value: Callable[[Right, Given], float]
    resampler: Callable[[Right, Given], Resampler]


def score(metric: str, labels: Answers, predictions: Answers, *, positive: int = _POSITIVE) -> float:
    """Return the score of some predictions.

    Args:
        metric: one of `schemas.core.metrics.KNOWN_METRICS`.
        labels: labels of the data, in the form of the kind of task (see the module).
        predictions: a model's answers, as many.
        positive: number of the class that `f1` and `accuracy_f1` are about.

    Raises:
        DataError: tags that the metric cannot read.
    """
    name, labels, predictions = _checked(metric, labels, predictions, positive)
    return METRICS[name].value(labels, predictions)


def interval(
    metric: str,
    labels: Answers,
    predictions: Answers,
    *,
    positive: int = _POSITIVE,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap interval of a score.

    Args:
        metric: as for `score`.
        labels: as for `score`.
        predictions: as for `score`.
        positive: as for `score`.
        level: share of the draws inside the interval.
        resamples: number of draws.
        seed: seed of the draws.
    """
    draws = resampled(metric, labels, predictions, positive=positive, resamples=resamples, seed=seed)
    return _percentiles(draws, level)


def paired_difference_interval(
    metric: str,
    labels: Answers,
    student: Answers,
    teacher: Answers,
    *,
    positive: int = _POSITIVE,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap interval of the student's score minus the teacher's, on the same draws of rows.

    Narrower than the difference of two intervals: hard rows are hard for both.

    Args:
        metric: as for `score`.
        labels: as for `score`.
        student: the student's predictions.
        teacher: the teacher's predictions for the same rows.
        positive: as for `score`.
        level: share of the draws inside the interval.
        resamples: number of draws.
        seed: seed of the draws.
    """
    first, second = (
        resampled(metric, labels, answers, positive=positive, resamples=resamples, seed=seed)
        for answers in (student, teacher)
    )
    return _percentiles(first - second, level)


def resampled(
    metric: str,
    labels: Answers,
    predictions: Answers,
    *,
    positive: int = _POSITIVE,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Return (resamples,) scores of rows drawn with replacement; the number of rows and the seed decide the draws."""
    name, labels, predictions = _checked(metric, labels, predictions, positive)
    return METRICS[name].resampler(labels, predictions).draws(resamples, seed)


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(metric: str, labels: Answers, predictions: Answers, positive: int) -> tuple[MetricName, Answers, Answers]:
    """Return the metric and both sides; for scores about one class, with that class as `_POSITIVE`."""
    if len(labels) != len(predictions) or len(labels) == 0:
        raise ValueError(
            f"{metric}: {len(labels)} labels and {len(predictions)} predictions; give as many of both, at least one"
        )
    for name in KNOWN_METRICS:
        if name != metric:
            continue
        if name in ABOUT_ONE_CLASS and positive != _POSITIVE:
            labels, predictions = _exchanged(labels, positive), _exchanged(predictions, positive)
        return name, labels, predictions
    raise ValueError(f"there is no metric {metric!r}; there are {', '.join(KNOWN_METRICS)}")


def _exchanged(answers: Answers, positive: int) -> np.ndarray:
    """Return (rows,) classes with `positive` and `_POSITIVE` exchanged, so that right answers stay right."""
    predicted = np.asarray(answers)
    return np.where(predicted == positive, _POSITIVE, np.where(predicted == _POSITIVE, positive, predicted))


# Classes, one or several per row.


def _accuracy(labels: Array, predictions: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(np.asarray(labels), np.asarray(predictions)))


def _right(labels: Array, predictions: Array) -> Resampler:
    same = np.asarray(labels) == np.asarray(predictions)
    return of_mean((same if same.ndim == 1 else same.all(1)).astype(np.float64))


def _positive(answers: Array) -> np.ndarray:
    return np.asarray(answers) == _POSITIVE


def _f1(labels: Array, predictions: Array) -> float:
    return _f1_average(_positive(labels), _positive(predictions), average="binary")


def _f1_resampler(labels: Array, predictions: Array) -> Resampler:
    right, predicted = (_positive(answers).astype(np.float64) for answers in (labels, predictions))
    return of_sums(np.stack([right * predicted, right + predicted], axis=1), f1_of)


def _f1_average(labels: Array, predictions: Array, *, average: str) -> float:
    from sklearn.metrics import f1_score

    right, predicted = np.asarray(labels), np.asarray(predictions)
    return float(f1_score(right, predicted, average=average, zero_division=0.0))


def _f1_macro_resampler(labels: Array, predictions: Array) -> Resampler:
    return of_f1_macro(*_one_hot(labels, predictions), present_only=np.ndim(labels) == 1)


def _f1_micro_resampler(labels: Array, predictions: Array) -> Resampler:
    right, predicted = _one_hot(labels, predictions)
    sums = np.stack([(right * predicted).sum(1), (right + predicted).sum(1)], axis=1)
    return of_sums(sums, f1_of)


def _one_hot(labels: Array, predictions: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return both as (rows, labels) of zeros and ones."""
    right, predicted = np.asarray(labels), np.asarray(predictions)
    if right.ndim == 1:
        classes = np.union1d(right, predicted)
        right, predicted = right[:, None] == classes, predicted[:, None] == classes
    return right.astype(np.float64), predicted.astype(np.float64)


def _matthews(labels: Array, predictions: Array) -> float:
    right, predicted = np.asarray(labels), np.asarray(predictions)
    if (right == right[0]).all() or (predicted == predicted[0]).all():
        return 0.0  # scikit-learn's value, without its warning about a single label
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(right, predicted))


def _matthews_resampler(labels: Array, predictions: Array) -> Resampler:
    return of_matthews(*_one_hot(labels, predictions))


# Values.


def _correlation(labels: Array, predictions: Array, *, of: Literal["pearsonr", "spearmanr"]) -> float:
    from scipy import stats

    right, predicted = _values(labels, predictions)
    if np.ptp(right) == 0 or np.ptp(predicted) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant values
        correlation = float(getattr(stats, of)(right, predicted).statistic)
    return correlation if np.isfinite(correlation) else 0.0


def _correlation_resampler(
    labels: Array, predictions: Array, *, of: Callable[[np.ndarray, np.ndarray], Resampler]
) -> Resampler:
    return of(*_values(labels, predictions))


def _values(labels: Array, predictions: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return both as (rows,) values; constant or infinite answers become 0."""
    right, predicted = (np.asarray(values, dtype=np.float64) for values in (labels, predictions))
    return right, np.zeros_like(predicted) if say_nothing(right, predicted) else predicted


def why_no_correlation(metric: str, labels: Answers, predictions: Answers) -> str | None:
    """Explain why a correlation is 0 whatever the model is worth; None where it means something, or is none."""
    if metric not in ("pearson", "spearman", "pearson_spearman"):
        return None
    if np.ptp(np.asarray(labels, dtype=np.float64)) == 0:
        return "the labels are all the same, and no correlation with them means anything"
    if not say_nothing(labels, predictions):
        return None
    predicted = np.asarray(predictions, dtype=np.float64)
    if not np.isfinite(predicted).all():
        return "not all answers are finite numbers"
    return f"all answers are {predicted.mean():.4g} but for rounding, and no correlation with them means anything"


def say_nothing(labels: Answers, predictions: Answers) -> bool:
    """Return True if (rows,) answers are equal except for rounding, or not all finite.

    A spread below a millionth of the labels' spread (or of the answers' size, if larger) is the rounding error of
    float32, whose correlation with anything says nothing about the model.
    """
    right, predicted = (np.asarray(values, dtype=np.float64) for values in (labels, predictions))
    if not np.isfinite(predicted).all():
        return True
    return bool(predicted.std() <= _ROUNDING * max(right.std(), np.abs(predicted).max()))


# Tags of words.


def entity_counts(labels: Tags, predictions: Tags) -> np.ndarray:
    """Return (sentences, 3): entities in common, entities of the labels, entities of the predictions."""
    for tag in {tag for tags in (*labels, *predictions) for tag in tags}:
        if tag != "O" and not tag.startswith(("B-", "I-")):
            raise DataError(
                f"entity_f1: the tag {printable(str(tag), 60)!r} is not of the BIO scheme (O, B-TYPE, I-TYPE); rewrite "
                "the tags, or score them by token_accuracy"
            )
    counts = np.zeros((len(labels), 3))
    for row, (right, predicted) in enumerate(zip(labels, predictions, strict=True)):
        if len(right) != len(predicted):
            raise ValueError(f"entity_f1: sentence {row}: {len(right)} and {len(predicted)} tags")
        entities, predicted_entities = _entities(right), _entities(predicted)
        counts[row] = len(entities & predicted_entities), len(entities), len(predicted_entities)
    return counts


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    return {(entity["label"], entity["start"], entity["end"]) for entity in collect_named_entities(list(tags))}


def _entity_f1_resampler(labels: Tags, predictions: Tags) -> Resampler:
    common, right, predicted = entity_counts(labels, predictions).T
    return of_sums(np.stack([common, right + predicted], axis=1), f1_of)


def _tokens_resampler(labels: Tags, predictions: Tags) -> Resampler:
    counts = np.array(
        [
            (sum(one == other for one, other in zip(right, predicted, strict=True)), len(right))
            for right, predicted in zip(labels, predictions, strict=True)
        ],
        dtype=np.float64,
    )
    return of_sums(counts, lambda sums: ratio(sums[:, 0], sums[:, 1]))


# Answers in words.


def _answers_resampler(labels: Tags, predictions: Sequence[str], *, by: AnswerScore) -> Resampler:
    return of_mean(answer_scores(by, labels, predictions))


def _from(resampler: Callable[[Right, Given], Resampler]) -> Metric[Right, Given]:
    """Return a metric that no library has: its value is that of the draw with every row once."""

    def value(labels: Right, predictions: Given) -> float:
        rows = resampler(labels, predictions)
        return float(rows.values(np.ones((1, rows.units)))[0])

    return Metric(value, resampler)


def _both(one: Metric[Right, Given], other: Metric[Right, Given]) -> Metric[Right, Given]:
    """Return the mean of two metrics."""
    return Metric(
        lambda labels, predicted: (one.value(labels, predicted) + other.value(labels, predicted)) / 2,
        lambda labels, predicted: of_both(one.resampler(labels, predicted), other.resampler(labels, predicted)),
    )


_ACCURACY = Metric(_accuracy, _right)
_F1 = Metric(_f1, _f1_resampler)
_PEARSON = Metric(partial(_correlation, of="pearsonr"), partial(_correlation_resampler, of=of_pearson))
_SPEARMAN = Metric(partial(_correlation, of="spearmanr"), partial(_correlation_resampler, of=of_spearman))

# Any: callers pair a metric with answers of the form that its kind has, which the type of a dictionary cannot express.
METRICS: dict[MetricName, Metric[Any, Any]] = {
    "accuracy": _ACCURACY,
    "f1": _F1,
    "accuracy_f1": _both(_ACCURACY, _F1),
    "f1_macro": Metric(partial(_f1_average, average="macro"), _f1_macro_resampler),
    "f1_micro": Metric(partial(_f1_average, average="micro"), _f1_micro_resampler),
    "matthews": Metric(_matthews, _matthews_resampler),
    "subset_accuracy": _ACCURACY,
    "pearson": _PEARSON,
    "spearman": _SPEARMAN,
    "pearson_spearman": _both(_PEARSON, _SPEARMAN),
    "entity_f1": _from(_entity_f1_resampler),
    "token_accuracy": _from(_tokens_resampler),
    "squad_f1": _from(partial(_answers_resampler, by=squad_f1)),
    "exact_match": _from(partial(_answers_resampler, by=exact_match)),
    "cmrc_f1": _from(partial(_answers_resampler, by=cmrc_f1)),
    "cmrc_exact_match": _from(partial(_answers_resampler, by=cmrc_exact_match)),
    "cosine": _from(of_cosines),
    "similarity_spearman": _from(of_similarities),
}
