"""Linear models on frozen features, fitted in the same way for every checkpoint and every kind."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn


def logistic(*, max_iter: int = 1000) -> LogisticRegression:
    """Return the logistic regression of the probe."""
    return LogisticRegression(max_iter=max_iter, C=0.1)


class _OneClass(BaseEstimator):
    """Stand-in for a logistic regression where all rows have one class, which it cannot be fitted on."""

    def fit(self, _features: NDArray[np.float32], labels: NDArray[np.int64]) -> _OneClass:
        """Remember the class."""
        self.classes_ = np.unique(labels)
        return self

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return (rows,) that class."""
        return np.full(len(features), self.classes_[0])

    def decision_function(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (rows, 1) zeros."""
        return np.zeros((len(features), 1))


def fitted(learner: Any, features: NDArray[np.float32], labels: NDArray[Any]) -> Pipeline:
    """Fit a scikit-learn estimator on standardised features.

    Args:
        learner: the estimator.
        features: (rows, width).
        labels: (rows,) or (rows, labels).
    """
    if isinstance(learner, LogisticRegression) and len(np.unique(labels)) == 1:
        learner = _OneClass()
    with warnings.catch_warnings():
        # A probe that stops early is the same for all checkpoints; so is a label that all rows have.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        return make_pipeline(StandardScaler(), learner).fit(features, labels)


class SpanHead(nn.Module):
    """An encoder under two linear scores for each token."""

    def __init__(self, encoder: nn.Module, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        super().__init__()
        self.base_model = encoder
        self.linear = nn.Linear(weight.shape[1], 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(bias))
        self.linear.to(next(encoder.parameters()).device)

    def forward(self, **inputs: Any) -> Any:
        """Return the encoder's output with `logits`, (batch, tokens, 2)."""
        output = self.base_model(**inputs)
        output["logits"] = self.linear(output.last_hidden_state.float())
        return output
