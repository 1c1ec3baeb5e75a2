"""Judges models: scores of a head, losses on held-out text, and the common yardstick for every stage.

The yardstick is the same for every checkpoint of a run: a linear probe on frozen features, and the latent loss against
one teacher on one held-out text. It is computed in fp32, whatever a stage trained in.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from stages.objectives import ObjectiveTerms
from stages.sources import TaskRows
from stages.terms import Needs, run_model
from stages.tokens import Batch, Tokens

EVALUATION_VERSION = 1
"""Raise by hand when a score is computed differently; every judgement made before is then made anew."""

_MICROBATCH_TOKENS = 8192


def drawn_rows(number: int, max_rows: int | None = None, *, seed: int = 0) -> np.ndarray:
    """Which of `number` rows to measure on: all, or `max_rows` drawn the same way every time.

    The first rows would not do: files are often sorted by label.
    """
    if max_rows is None or max_rows >= number:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).permutation(number)[:max_rows])


def _batches(tokens: Tokens, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Batch]]:
    """Places within `rows` and their batch, in order of length."""
    for places in evaluation_batches(tokens.lengths[rows], microbatch_tokens=_MICROBATCH_TOKENS):
        yield places, tokens.batch(rows[places])


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass(frozen=True)
class Read:
    """What a model makes of some rows, from one pass over them."""

    features: np.ndarray
    """(rows, width): last hidden states averaged over real tokens."""
    logits: np.ndarray | None
    """(rows, classes): the head's answers; None without a head."""


@torch.no_grad()
def read_rows(model: nn.Module, tokens: Tokens, rows: np.ndarray) -> Read:
    """Features, and answers where there is a head, for `rows` in their order."""
    encoder = getattr(model.eval(), "base_model", model)
    states: list[Tensor] = []
    hook = encoder.register_forward_hook(
        lambda _m, _i, output: states.append(output.last_hidden_state)
    )
    features: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    order: list[np.ndarray] = []
    try:
        for places, batch in _batches(tokens, rows):
            batch = batch.to(_device(model))
            answer = run_model(model, batch, Needs(logits=True)).logits
            mask = batch.attention_mask.unsqueeze(-1)
            pooled = (states.pop().float() * mask).sum(1) / mask.sum(1)
            features.append(pooled.cpu().numpy())
            order.append(places)
            if answer is not None:
                logits.append(answer.float().cpu().numpy())
    finally:
        hook.remove()
    place = np.argsort(np.concatenate(order))
    return Read(
        features=np.concatenate(features)[place],
        logits=np.concatenate(logits)[place] if logits else None,
    )


def logits_of(model: nn.Module, tokens: Tokens, rows: np.ndarray | None = None) -> np.ndarray:
    """(rows, classes): the head's answer to `rows`, all of them by default, in their order."""
    logits = read_rows(model, tokens, drawn_rows(len(tokens)) if rows is None else rows).logits
    assert logits is not None
    return logits


def score(metric: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """The task's metric: `accuracy`, `f1` (of class 1) or `matthews`."""
    match metric:
        case "f1":
            return float(f1_score(labels, predictions, pos_label=1, average="binary"))
        case "matthews":
            return float(matthews_corrcoef(labels, predictions))
        case _:
            return float(accuracy_score(labels, predictions))


def probe_accuracy(
    train: Read, train_labels: np.ndarray, held_out: Read, labels: np.ndarray
) -> float:
    """Accuracy of a logistic regression on frozen features, fitted on one set of rows and scored on another.

    Args:
        train: what the model makes of the rows the probe is fitted on.
        train_labels: their classes.
        held_out: what it makes of the rows the probe is scored on.
        labels: their classes.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # a probe that stops early is the same for all
        probe.fit(train.features, train_labels)
    return float(probe.score(held_out.features, labels))


@torch.no_grad()
def held_out_losses(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    objective: ObjectiveTerms,
    tokens: Tokens,
    *,
    max_rows: int,
) -> dict[str, float]:
    """Each term's mean on held-out rows, by name (layers summed), and their weighted sum as `loss`."""
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    student.eval(), objective.eval()
    for teacher in teachers:
        teacher.eval()
    rows = drawn_rows(len(tokens), max_rows)
    for places, batch in _batches(tokens, rows):
        batch = objective.prepare(batch, rows[places], step=0).to(_device(student))
        target = objective.read_teachers(teachers, batch)
        output = run_model(student, batch, objective.student_needs)
        for key, loss in objective.compute(output, target, batch).items():
            totals[key] = totals.get(key, 0.0) + float(loss.total)
            counts[key] = counts.get(key, 0) + int(loss.count)
    means: dict[str, float] = {"loss": 0.0}
    for term in objective.terms:
        mean = totals[term.key] / max(counts[term.key], 1)
        means[term.curve] = means.get(term.curve, 0.0) + mean
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
    drawn = drawn_rows(len(rows.validation), max_rows)
    labels = np.asarray(rows.validation["label"])[drawn]
    predictions = model.predict(np.asarray(texts("validation"), dtype=object)[drawn])
    return {
        "eval/accuracy": float(accuracy_score(labels, predictions)),
        f"eval/{metric}": score(metric, labels, predictions),
    }
