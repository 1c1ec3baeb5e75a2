"""Scores of answers against the data's labels, and how far they would move with other rows.

What labels and predictions are depends on the kind of task:

| kind | labels | predictions |
|---|---|---|
| classification | (rows,) class numbers | (rows,) class numbers |
| multi_label | (rows, labels) zeros and ones | the same |
| regression | (rows,) values | (rows,) values |
| token_classification | a list of tags for each sentence | the same |
| question_answering | a list of right answers for each question, empty for none | one answer each, "" for none |
| embedding | (rows, width) the teacher's vectors | (rows, width) the student's, of any width |

`pearson` and `spearman` also score an embedding task whose pairs carry a likeness: (rows,) the data's, and (rows,)
cosines of the student's vectors.

A score without a meaning (a constant has no correlation, F1 without a single positive) is 0, silently: a model that
always answers the same is a bad model, not a failed run. Which scores exist and what they suit is in
`schemas.core.metrics`.

scikit-learn and scipy compute what they have. Entities are read by nervaluate, whose rule is that of conlleval (Tjong
Kim Sang and De Meulder 2003): an entity begins at B-, at an I- after O or at the start, and at a change of type. It has
no dependencies and saw its last release in 2026; seqeval, the better known one with the same rule, saw its own in 2020,
as source only. conlleval's F1 then follows from the entities in common and those of either side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from nervaluate import collect_named_entities
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

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
"""The class that `f1` is about, as with scikit-learn; answers about another class are given its number first."""


@dataclass(frozen=True)
class Metric:
    """One score: its value, and its value on any draw of the rows."""

    value: Callable[[Any, Any], float]
    resampler: Callable[[Any, Any], Resampler]


def score(metric: str, labels: Any, predictions: Any, *, positive: int = _POSITIVE) -> float:
    """The score of the predictions.

    Args:
        metric: one of `schemas.core.metrics.KNOWN_METRICS`.
        labels: what the data says, in the form of the kind of task (see the module).
        predictions: what a model says, as many.
        positive: the class that scores about one class (`f1`, `accuracy_f1`) are about.

    Raises:
        DataError: tags that the metric cannot read.
    """
    name, labels, predictions = _checked(metric, labels, predictions, positive)
    return METRICS[name].value(labels, predictions)


def interval(
    metric: str,
    labels: Any,
    predictions: Any,
    *,
    positive: int = _POSITIVE,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Between which scores `level` of the draws of as many rows (sentences, questions) lie.

    Args:
        metric: as for `score`.
        labels: as for `score`.
        predictions: as for `score`.
        positive: as for `score`.
        level: share of the draws inside.
        resamples: how many draws.
        seed: of the draws.
    """
    draws = _draws(metric, labels, predictions, positive, resamples, seed)
    return _percentiles(draws, level)


def paired_difference_interval(
    metric: str,
    labels: Any,
    student: Any,
    teacher: Any,
    *,
    positive: int = _POSITIVE,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Between which values `level` of the draws of student's score minus teacher's lie, both on the same rows.

    Narrower than two intervals side by side: rows that are hard are hard for both.

    Args:
        metric: as for `score`.
        labels: as for `score`.
        student: predictions of the one.
        teacher: predictions of the other for the same rows.
        positive: as for `score`.
        level: share of the draws inside.
        resamples: how many draws.
        seed: of the draws.
    """
    draws = [_draws(metric, labels, given, positive, resamples, seed) for given in (student, teacher)]
    return _percentiles(draws[0] - draws[1], level)


def _draws(metric: str, labels: Any, predictions: Any, positive: int, resamples: int, seed: int) -> np.ndarray:
    name, labels, predictions = _checked(metric, labels, predictions, positive)
    resampler = METRICS[name].resampler(labels, predictions)
    return resampler.draws(resamples, seed)


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(metric: str, labels: Any, predictions: Any, positive: int) -> tuple[MetricName, Any, Any]:
    """The metric, and both sides as it takes them: of scores about one class, with that class as `_POSITIVE`."""
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


def _exchanged(answers: Any, positive: int) -> np.ndarray:
    """(rows,) classes, the numbers of `positive` and `_POSITIVE` exchanged, so that right answers stay right."""
    given = np.asarray(answers)
    return np.where(given == positive, _POSITIVE, np.where(given == _POSITIVE, positive, given))


# Classes, one a row or several.


def _accuracy(labels: Any, predictions: Any) -> float:
    return float(accuracy_score(np.asarray(labels), np.asarray(predictions)))


def _right(labels: Any, predictions: Any) -> Resampler:
    same = np.asarray(labels) == np.asarray(predictions)
    return of_mean((same if same.ndim == 1 else same.all(1)).astype(np.float64))


def _positive(answers: Any) -> np.ndarray:
    return np.asarray(answers) == _POSITIVE


def _f1(labels: Any, predictions: Any) -> float:
    return float(f1_score(_positive(labels), _positive(predictions), zero_division=0.0))


def _f1_resampler(labels: Any, predictions: Any) -> Resampler:
    right, given = (_positive(answers).astype(np.float64) for answers in (labels, predictions))
    return of_sums(np.stack([right * given, right + given], axis=1), f1_of)


def _f1_average(labels: Any, predictions: Any, *, average: str) -> float:
    right, given = np.asarray(labels), np.asarray(predictions)
    return float(f1_score(right, given, average=average, zero_division=0.0))


def _f1_macro_resampler(labels: Any, predictions: Any) -> Resampler:
    return of_f1_macro(*_one_hot(labels, predictions), present_only=np.ndim(labels) == 1)


def _f1_micro_resampler(labels: Any, predictions: Any) -> Resampler:
    right, given = _one_hot(labels, predictions)
    sums = np.stack([(right * given).sum(1), (right + given).sum(1)], axis=1)
    return of_sums(sums, f1_of)


def _one_hot(labels: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as (rows, labels) of zeros and ones."""
    right, given = np.asarray(labels), np.asarray(predictions)
    if right.ndim == 1:
        classes = np.union1d(right, given)
        right, given = right[:, None] == classes, given[:, None] == classes
    return right.astype(np.float64), given.astype(np.float64)


def _matthews(labels: Any, predictions: Any) -> float:
    right, given = np.asarray(labels), np.asarray(predictions)
    if (right == right[0]).all() or (given == given[0]).all():
        return 0.0  # as scikit-learn has it, but it warns of a single label
    return float(matthews_corrcoef(right, given))


def _matthews_resampler(labels: Any, predictions: Any) -> Resampler:
    return of_matthews(*_one_hot(labels, predictions))


# Values.


def _correlation(labels: Any, predictions: Any, *, of: Callable[..., Any]) -> float:
    right, given = _values(labels, predictions)
    if np.ptp(right) == 0 or np.ptp(given) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant values
        found = float(of(right, given).statistic)
    return found if np.isfinite(found) else 0.0


def _correlation_resampler(
    labels: Any, predictions: Any, *, of: Callable[[np.ndarray, np.ndarray], Resampler]
) -> Resampler:
    return of(*_values(labels, predictions))


def _values(labels: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as (rows,) values; answers that say nothing are all 0."""
    right, given = (np.asarray(values, dtype=np.float64) for values in (labels, predictions))
    return right, np.zeros_like(given) if say_nothing(right, given) else given


def why_no_correlation(metric: str, labels: Any, predictions: Any) -> str | None:
    """Why a correlation is 0 whatever the model is worth; None where it means something, and for other metrics."""
    if metric not in ("pearson", "spearman", "pearson_spearman"):
        return None
    if np.ptp(np.asarray(labels, dtype=np.float64)) == 0:
        return "the labels are all the same, and no correlation with them means anything"
    if not say_nothing(labels, predictions):
        return None
    given = np.asarray(predictions, dtype=np.float64)
    if not np.isfinite(given).all():
        return "not all answers are finite numbers"
    return f"all answers are {given.mean():.4g} but for rounding, and no correlation with them means anything"


def say_nothing(labels: Any, predictions: Any) -> bool:
    """Whether (rows,) answers are all the same but for rounding, or not all numbers.

    What is left of a spread below a millionth of the labels' (or of the answers' own size, where that is more) is the
    rounding of float32, and its correlation with anything says nothing of the model.
    """
    right, given = (np.asarray(values, dtype=np.float64) for values in (labels, predictions))
    if not np.isfinite(given).all():
        return True
    return bool(given.std() <= _ROUNDING * max(right.std(), np.abs(given).max()))


# Tags of words.


def entity_counts(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> np.ndarray:
    """(sentences, 3): entities in common, entities of the labels, entities of the predictions."""
    for tag in {tag for tags in (*labels, *predictions) for tag in tags}:
        if tag != "O" and not tag.startswith(("B-", "I-")):
            raise DataError(
                f"entity_f1: the tag {printable(str(tag), 60)!r} is not of the BIO scheme (O, B-TYPE, I-TYPE); rewrite "
                "the tags, or score them by token_accuracy"
            )
    counts = np.zeros((len(labels), 3))
    for row, (right, given) in enumerate(zip(labels, predictions, strict=True)):
        if len(right) != len(given):
            raise ValueError(f"entity_f1: sentence {row}: {len(right)} and {len(given)} tags")
        entities, found = _entities(right), _entities(given)
        counts[row] = len(entities & found), len(entities), len(found)
    return counts


def _entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    found = collect_named_entities(list(tags))
    return {(entity["label"], entity["start"], entity["end"]) for entity in found}


def _entity_f1_resampler(labels: Any, predictions: Any) -> Resampler:
    common, right, given = entity_counts(labels, predictions).T
    return of_sums(np.stack([common, right + given], axis=1), f1_of)


def _tokens_resampler(labels: Any, predictions: Any) -> Resampler:
    counts = np.array(
        [
            (sum(one == other for one, other in zip(right, given, strict=True)), len(right))
            for right, given in zip(labels, predictions, strict=True)
        ],
        dtype=np.float64,
    )
    return of_sums(counts, lambda sums: ratio(sums[:, 0], sums[:, 1]))


# Answers in words.


def _answers_resampler(labels: Any, predictions: Any, *, by: AnswerScore) -> Resampler:
    return of_mean(answer_scores(by, labels, predictions))


def _from(resampler: Callable[[Any, Any], Resampler]) -> Metric:
    """A metric that no library has, whose value is that of the draw in which every row comes once."""

    def value(labels: Any, predictions: Any) -> float:
        rows = resampler(labels, predictions)
        return float(rows.values(np.ones((1, rows.units)))[0])

    return Metric(value, resampler)


def _both(one: Metric, other: Metric) -> Metric:
    """The mean of two metrics."""
    return Metric(
        lambda labels, given: (one.value(labels, given) + other.value(labels, given)) / 2,
        lambda labels, given: of_both(one.resampler(labels, given), other.resampler(labels, given)),
    )


_ACCURACY = Metric(_accuracy, _right)
_F1 = Metric(_f1, _f1_resampler)
_PEARSON = Metric(partial(_correlation, of=pearsonr), partial(_correlation_resampler, of=of_pearson))
_SPEARMAN = Metric(partial(_correlation, of=spearmanr), partial(_correlation_resampler, of=of_spearman))

METRICS: dict[MetricName, Metric] = {
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
