"""The linear probe: what a linear model makes of frozen features, the same yardstick for every checkpoint of a run."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from stages.data.batching.tokens import NO_WORD, Tokens
from stages.data.tasks.stratified import drawn_rows, rarest
from stages.evaluation.read_models import Read, answers_of, read_rows
from stages.scores.scorer import Scorer

_OTHER_TOKENS = 8
"""Tokens of a window that are no start and no end of an answer, for the probe of spans to learn from."""


def probe_rows(train: Tokens, problem: TaskKind, max_rows: int) -> NDArray[np.int64]:
    """The training sequences that a probe is fitted on, drawn by class so that none is missing.

    Args:
        train: the task's training sequences.
        problem: the task's kind.
        max_rows: how many sequences are taken at most.
    """
    number = len(train)
    if max_rows >= number:
        return np.arange(number)
    return drawn_rows(number, max_rows, by=_classes_of(train, problem))


def _classes_of(train: Tokens, problem: TaskKind) -> NDArray[np.int64] | None:
    """(sequences,) what each is drawn by: its class, its rarest label or tag, whether its choice is right."""
    labels, tags = train.labels, train.tags
    if isinstance(problem, Classification | MultipleChoice):
        return labels
    if isinstance(problem, MultiLabel) and labels is not None:
        return rarest(*np.nonzero(labels), number=len(train))
    if isinstance(problem, TokenClassification) and tags is not None:
        every = np.arange(len(train))
        own = tags[train.places(every)]
        of_words = np.flatnonzero(own != NO_WORD)
        return rarest(np.repeat(every, train.lengths)[of_words], own[of_words].astype(np.int64), number=len(train))
    return None


def probe(model: nn.Module, train: Tokens, rows: np.ndarray, scorer: Scorer, held_out: Read | None) -> Any:
    """What a linear model on the model's last states says about a scorer's rows, in the scorer's form.

    Logistic regression for classes, sets of labels, right and wrong choices, tags of words, and the places where spans
    start and end; ridge regression for values; for vectors the mean state itself.

    Args:
        model: its encoder's states are the features; a head is not asked.
        train: sequences that the probe is fitted on.
        rows: which of them.
        scorer: the rows that it is asked about.
        held_out: those rows read already, their features means over tokens; None to read them here.
    """
    problem = scorer.task.problem
    if isinstance(problem, QuestionAnswering):
        return _spans(model, train, rows, scorer)
    if isinstance(problem, TokenClassification):
        return _tags(model, train, rows, scorer)
    held_out = held_out or read_rows(model, scorer.tokens, scorer.sequences)
    features = np.stack(held_out.features)
    if isinstance(problem, Embedding):
        return features
    assert train.labels is not None
    learnt = np.stack(read_rows(model, train, rows).features)
    if isinstance(problem, MultipleChoice):
        right = _fit(LogisticRegression(max_iter=1000, C=0.1), learnt, train.labels[rows])
        return scorer.predictions(list(right.decision_function(features).reshape(-1, 1)))
    assert isinstance(problem, Classification | MultiLabel | Regression)
    return _fitted(problem, learnt, train.labels[rows]).predict(features)


def _fitted(problem: Classification | MultiLabel | Regression, features: np.ndarray, labels: np.ndarray) -> Pipeline:
    learner: Any = LogisticRegression(max_iter=1000, C=0.1)
    if isinstance(problem, MultiLabel):
        learner, labels = OneVsRestClassifier(learner), labels.astype(np.int64)
    elif isinstance(problem, Regression):
        learner = Ridge(alpha=10.0)
    return _fit(learner, features, labels)


class _OneClass(BaseEstimator):
    """Stands for a logistic regression where all rows have one class, which it cannot be fitted on."""

    def fit(self, _features: np.ndarray, labels: np.ndarray) -> _OneClass:
        """Take note of the class."""
        self.classes_ = np.unique(labels)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(rows,) that class."""
        return np.full(len(features), self.classes_[0])

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        """(rows, 1) zeros."""
        return np.zeros((len(features), 1))


def _fit(learner: Any, features: np.ndarray, labels: np.ndarray) -> Pipeline:
    if isinstance(learner, LogisticRegression) and len(np.unique(labels)) == 1:
        learner = _OneClass()
    with warnings.catch_warnings():
        # A probe that stops early is the same for all; so is a label that all rows have.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        return make_pipeline(StandardScaler(), learner).fit(features, labels)


def _tags(model: nn.Module, train: Tokens, rows: np.ndarray, scorer: Scorer) -> Any:
    assert train.tags is not None
    tags = train.tags

    def tagged(row: np.ndarray) -> np.ndarray:
        return np.asarray(tags[train.places(row)]) != NO_WORD

    learnt = np.concatenate(read_rows(model, train, rows, tagged).features)
    classes = np.asarray(tags[train.places(rows)])
    fitted = _fit(LogisticRegression(max_iter=300, C=0.1), learnt, classes[classes != NO_WORD])
    read = read_rows(model, scorer.tokens, scorer.sequences, lambda row: _all_of(scorer.tokens, row))
    known = fitted[-1].classes_
    answers = []
    for states in read.features:
        logits = np.full((len(states), len(scorer.task.labels)), -np.inf, np.float32)
        scores = fitted.decision_function(states)
        logits[:, known] = scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)
        answers.append(logits)
    return scorer.predictions(answers)


def _all_of(tokens: Tokens, row: np.ndarray) -> np.ndarray:
    return np.ones(int(tokens.lengths[row].sum()), bool)


class _SpanHead(nn.Module):
    """An encoder under two linear scores for each token."""

    def __init__(self, encoder: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.base_model = encoder
        self.linear = nn.Linear(weight.shape[1], 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(bias))
        self.linear.to(next(encoder.parameters()).device)

    def forward(self, **inputs: Any) -> Any:
        output = self.base_model(**inputs)
        output["logits"] = self.linear(output.last_hidden_state.float())
        return output


def _spans(model: nn.Module, train: Tokens, rows: np.ndarray, scorer: Scorer) -> Any:
    assert train.labels is not None
    assert train.spans is not None
    labels, spans = train.labels, train.spans
    kept: dict[int, np.ndarray] = {}

    def picked(row: np.ndarray) -> np.ndarray:
        context = np.flatnonzero(spans[train.places(row), 1] > 0)
        number = int(row[0])
        others = np.random.default_rng(number).permutation(context)[:_OTHER_TOKENS]
        places = np.unique([*others, *labels[number]]).astype(np.int64)
        chosen = np.zeros(int(train.lengths[number]), bool)
        chosen[places] = True
        kept[number] = np.stack([places == labels[number][end] for end in (0, 1)], axis=1)
        return chosen

    features = np.concatenate(read_rows(model, train, rows, picked).features)
    right = np.concatenate([kept[row] for row in rows.tolist()])
    scaler = StandardScaler().fit(features)
    weights, biases = [], []
    for end in (0, 1):
        if right[:, end].all():  # windows of a single token, which is no other's start or end
            weights.append(np.zeros(features.shape[1]))
            biases.append(0.0)
            continue
        fitted = LogisticRegression(max_iter=300, C=0.1, class_weight="balanced")
        fitted.fit(scaler.transform(features), right[:, end])
        weight = fitted.coef_[0] / scaler.scale_
        weights.append(weight)
        biases.append(fitted.intercept_[0] - weight @ scaler.mean_)
    head = _SpanHead(
        getattr(model, "base_model", model), np.stack(weights).astype(np.float32), np.array(biases, np.float32)
    )
    return answers_of(head, scorer)
