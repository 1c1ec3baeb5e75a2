"""Judges models: scores of a head, losses on held-out text, and the common yardstick for every stage.

The yardstick is the same for every checkpoint of a run: a linear probe on frozen features, and the latent loss against
one teacher on one held-out text. It is computed in fp32, whatever a stage trained in.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from stages.batches import evaluation_batches
from stages.objectives import Needs, ObjectiveTerms, run_model
from stages.sources import TaskRows
from stages.tokens import Batch, Tokens

EVALUATION_VERSION = 1
"""Raise by hand when a score is computed differently; every judgement made before is then made anew."""

_MICROBATCH_TOKENS = 8192


def _batches(tokens: Tokens, max_rows: int | None) -> Iterator[tuple[np.ndarray, Batch]]:
    rows = len(tokens) if max_rows is None else min(max_rows, len(tokens))
    for indices in evaluation_batches(tokens.lengths[:rows], microbatch_tokens=_MICROBATCH_TOKENS):
        yield indices, tokens.batch(indices)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Tokens, *, max_rows: int | None = None) -> np.ndarray:
    """(rows, classes): the head's answer to the first `max_rows` rows, in their order."""
    rows = len(tokens) if max_rows is None else min(max_rows, len(tokens))
    answers: np.ndarray | None = None
    for indices, batch in _batches(tokens, max_rows):
        output = run_model(model.eval(), batch.to(_device(model)), Needs(logits=True)).logits
        assert output is not None
        if answers is None:
            answers = np.zeros((rows, output.shape[-1]), dtype=np.float32)
        answers[indices] = output.float().cpu().numpy()
    assert answers is not None
    return answers


def score(metric: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """The task's metric: `accuracy`, `f1` (of class 1) or `matthews`."""
    match metric:
        case "f1":
            return float(f1_score(labels, predictions, pos_label=1, average="binary"))
        case "matthews":
            return float(matthews_corrcoef(labels, predictions))
        case _:
            return float(accuracy_score(labels, predictions))


@torch.no_grad()
def features_of(model: nn.Module, tokens: Tokens, *, max_rows: int) -> np.ndarray:
    """(rows, width): last hidden states averaged over real tokens, without gradient."""
    encoder = getattr(model, "base_model", model)
    rows = min(max_rows, len(tokens))
    features: np.ndarray | None = None
    for indices, batch in _batches(tokens, max_rows):
        batch = batch.to(_device(model))
        states: Tensor = encoder.eval()(**batch.model_inputs()).last_hidden_state.float()
        mask = batch.attention_mask.unsqueeze(-1)
        pooled = (states * mask).sum(1) / mask.sum(1)
        if features is None:
            features = np.zeros((rows, pooled.shape[-1]), dtype=np.float32)
        features[indices] = pooled.cpu().numpy()
    assert features is not None
    return features


def probe_accuracy(
    model: nn.Module, train: Tokens, validation: Tokens, *, train_rows: int, validation_rows: int
) -> float:
    """Validation accuracy of a logistic regression on the model's frozen features.

    Args:
        model: encoder, with or without head.
        train: labelled rows; the first `train_rows` fit the probe.
        validation: labelled rows; the first `validation_rows` are scored.
        train_rows: how many rows the probe sees.
        validation_rows: how many rows it is scored on.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    assert train.labels is not None
    assert validation.labels is not None
    features = features_of(model, train, max_rows=train_rows)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # a probe that stops early is still the same for all
        probe.fit(features, train.labels[: len(features)])
    held_out = features_of(model, validation, max_rows=validation_rows)
    return float(probe.score(held_out, validation.labels[: len(held_out)]))


@torch.no_grad()
def held_out_losses(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: ObjectiveTerms,
    tokens: Tokens,
    *,
    max_rows: int,
) -> dict[str, float]:
    """Each term's mean on held-out rows, by name (layers summed), and their weighted sum as `loss`."""
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    student.eval(), objective.eval()
    for _, batch in _batches(tokens, max_rows):
        batch = batch.to(_device(student))
        target = (
            run_model(teacher.eval(), batch, objective.teacher_needs)
            if teacher is not None
            else None
        )
        output = run_model(student, batch, objective.student_needs)
        for key, loss in objective.compute(output, target, batch).items():
            totals[key] = totals.get(key, 0.0) + float(loss.total)
            counts[key] = counts.get(key, 0) + int(loss.count)
    means: dict[str, float] = {"loss": 0.0}
    for term in objective.terms:
        mean = totals[term.key] / max(counts[term.key], 1)
        means[f"{term.name}_loss"] = means.get(f"{term.name}_loss", 0.0) + mean
        means["loss"] += term.weight * mean
    return means


def majority_share(labels: np.ndarray) -> float:
    """Share of the most frequent class: what guessing gets."""
    return float(np.bincount(labels).max() / len(labels))


def bag_of_words(rows: TaskRows, metric: str, *, max_rows: int) -> dict[str, float]:
    """Scores of a logistic regression on word and word-pair counts, the same rows and split."""

    def texts(split: str) -> list[str]:
        data = rows.train if split == "train" else rows.validation
        first = list(data["text"])
        if "text_pair" not in data.column_names:
            return first
        return [f"{one} {two}" for one, two in zip(first, data["text_pair"], strict=True)]

    model = make_pipeline(
        CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, max_features=200_000),
        LogisticRegression(max_iter=200, solver="liblinear" if len(rows.labels) == 2 else "lbfgs"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(texts("train"), np.asarray(rows.train["label"]))
    labels = np.asarray(rows.validation["label"])[:max_rows]
    predictions = model.predict(texts("validation")[:max_rows])
    return {
        "eval/accuracy": float(accuracy_score(labels, predictions)),
        f"eval/{metric}": score(metric, labels, predictions),
    }
