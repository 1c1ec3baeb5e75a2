"""Names of all scores, the kinds of tasks that each suits, and the default score of each kind.

`stages.scores.metrics` computes them. A higher score is always better, so that the best checkpoint is the one with the
highest. Correlations (`lowest` is -1) range from -1 to 1, all other scores from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from schemas.core.kinds import KindName
from schemas.core.wording import printable

MetricName = Literal[
    "accuracy",
    "f1",
    "accuracy_f1",
    "f1_macro",
    "f1_micro",
    "matthews",
    "subset_accuracy",
    "pearson",
    "spearman",
    "pearson_spearman",
    "entity_f1",
    "token_accuracy",
    "squad_f1",
    "exact_match",
    "cmrc_f1",
    "cmrc_exact_match",
    "cosine",
    "similarity_spearman",
]


@dataclass(frozen=True)
class MetricFacts:
    """Description of a score."""

    title: str
    """Title in words, for tables and messages."""
    problems: tuple[KindName, ...]
    """Kinds of tasks that it can score."""
    lowest: float = 0.0
    """The worst value; the best is always 1."""


KNOWN_METRICS: dict[MetricName, MetricFacts] = {
    "accuracy": MetricFacts("share of right answers", ("classification", "multiple_choice")),
    "f1": MetricFacts("F1 of one class", ("classification",)),
    "accuracy_f1": MetricFacts("mean of accuracy and F1 of one class", ("classification",)),
    "f1_macro": MetricFacts("mean of the labels' F1", ("classification", "multi_label")),
    "f1_micro": MetricFacts("F1 over all decisions", ("classification", "multi_label")),
    "matthews": MetricFacts("Matthews correlation", ("classification",), lowest=-1.0),
    "subset_accuracy": MetricFacts("share of rows with every label right", ("multi_label",)),
    "pearson": MetricFacts("Pearson correlation", ("regression", "embedding"), lowest=-1.0),
    "spearman": MetricFacts("rank correlation", ("regression", "embedding"), lowest=-1.0),
    "pearson_spearman": MetricFacts("mean of Pearson and rank correlation", ("regression", "embedding"), lowest=-1.0),
    "entity_f1": MetricFacts("F1 of whole entities (conlleval)", ("token_classification",)),
    "token_accuracy": MetricFacts("share of words tagged right", ("token_classification",)),
    "squad_f1": MetricFacts("F1 of the answer's words (SQuAD)", ("question_answering",)),
    "exact_match": MetricFacts("share of answers that are exact (SQuAD)", ("question_answering",)),
    "cmrc_f1": MetricFacts("F1 of the answer's characters and words (CMRC 2018)", ("question_answering",)),
    "cmrc_exact_match": MetricFacts("share of answers that are exact (CMRC 2018)", ("question_answering",)),
    "cosine": MetricFacts("mean cosine with the teacher's vector", ("embedding",), lowest=-1.0),
    "similarity_spearman": MetricFacts("rank correlation with the teacher's similarities", ("embedding",), lowest=-1.0),
}

ABOUT_ONE_CLASS: frozenset[str] = frozenset({"f1", "accuracy_f1"})
"""Scores of one class, meaningless unless that class is named."""

DEFAULT_METRIC: dict[KindName, MetricName] = {
    "classification": "accuracy",
    "multi_label": "f1_micro",
    "regression": "pearson_spearman",
    "token_classification": "entity_f1",
    "question_answering": "squad_f1",
    "multiple_choice": "accuracy",
    # Vectors of student and teacher often differ in width, and then have no cosine.
    "embedding": "similarity_spearman",
}


def titled(metric: str, of: str | None) -> str:
    """Return a score's title: `accuracy`, or `f1 of fraud` for a score of one class.

    Args:
        metric: the score.
        of: the class that it is about; None for scores of all classes.
    """
    return metric if of is None else f"{metric} of {printable(of, 40)}"


def metrics_of(problem: KindName) -> tuple[MetricName, ...]:
    """Return the scores that suit a kind of task, its default score first."""
    suited = [name for name, facts in KNOWN_METRICS.items() if problem in facts.problems]
    return tuple(sorted(suited, key=lambda name: name != DEFAULT_METRIC[problem]))


def check_metrics(metrics: Sequence[str], problem: KindName) -> None:
    """Refuse scores that do not suit the kind of task, or that are listed twice.

    Raises:
        ValueError: the message lists the scores that suit it.
    """
    for metric in metrics:
        if metric not in get_args(MetricName):
            raise ValueError(f"there is no metric {metric!r}; {_choice(problem)}")
        if metric not in metrics_of(problem):
            raise ValueError(f"{metric} does not score {problem} tasks; {_choice(problem)}")
    if len(set(metrics)) != len(metrics):
        raise ValueError("metrics: one is listed twice; name each once, the most important first")


def _choice(problem: KindName) -> str:
    return f"for {problem} tasks there are {', '.join(metrics_of(problem))}"
