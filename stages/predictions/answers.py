"""Answers in words, from a model's outputs for the sequences of some rows; by the rules that evaluation scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from schemas.results.export import TaskForm
from stages.data.batching.spans import choose_spans
from stages.data.batching.words import first_pieces
from stages.predictions.encode import Sequences
from stages.predictions.rows import Row

Answer = dict[str, Any]
Logits = Sequence[NDArray[np.float32]]
"""(outputs,), or (tokens, outputs), of each sequence."""
OUTSIDE = "O"
_FIELDS: dict[type[Any], tuple[str, ...]] = {
    Classification: ("label", "score", "probabilities"),
    MultiLabel: ("labels", "probabilities"),
    Regression: ("value",),
    TokenClassification: ("entities",),
    QuestionAnswering: ("answer", "start", "end", "score"),
    MultipleChoice: ("choice", "index", "score", "probabilities"),
    Embedding: ("vector",),
}


def no_answer(form: TaskForm) -> Answer:
    """Return the answer to a row without text: every field is null."""
    return dict.fromkeys(_FIELDS[type(form.problem)])


def answers_of(
    form: TaskForm, labels: tuple[str, ...], rows: Sequence[Row], sequences: Sequences, logits: Logits
) -> list[Answer]:
    """Return an answer for each row.

    Args:
        form: the task's.
        labels: names of the model's outputs.
        rows: the rows, none of which lacks a text.
        sequences: their sequences.
        logits: the model's outputs for them.
    """
    match form.problem:
        case Classification():
            return [_class_of(row, labels) for row in logits]
        case MultiLabel(threshold=threshold):
            return [_label_set(row, labels, threshold) for row in logits]
        case Regression():
            return [{"value": _number(row[0])} for row in logits]
        case TokenClassification():
            decode = _entities if _are_bio(labels) else _words
            return [_tagged(rows, sequences, logits, index, labels, decode) for index in range(len(rows))]
        case QuestionAnswering():
            return _spans(form, rows, sequences, logits)
        case MultipleChoice():
            return _choices(rows, sequences, logits)
        case Embedding():
            return [{"vector": [_number(value) for value in row]} for row in logits]


def _class_of(logits: NDArray[np.float32], labels: tuple[str, ...]) -> Answer:
    probabilities, best = _softmax(logits), int(logits.argmax())
    return {
        "label": labels[best],
        "score": _probability(probabilities[best]),
        "probabilities": dict(zip(labels, map(_probability, probabilities), strict=True)),
    }


def _label_set(logits: NDArray[np.float32], labels: tuple[str, ...], threshold: float) -> Answer:
    is_above = logits >= np.log(threshold / (1 - threshold))
    probabilities = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))
    return {
        "labels": [label for label, above in zip(labels, is_above, strict=True) if above],
        "probabilities": dict(zip(labels, map(_probability, probabilities), strict=True)),
    }


Spans = list[tuple[int, int]]
Decode = Callable[[str, Spans, list[str], list[float]], Answer]


def _tagged(
    rows: Sequence[Row], sequences: Sequences, logits: Logits, index: int, labels: tuple[str, ...], decode: Decode
) -> Answer:
    """Return the entities or words of a row, and the tag of each word where words were given.

    A word has the tag of its first piece, and O where it was cut off.
    """
    spans, word_of = sequences.words[index], sequences.word_of[index]
    tags, scores = [OUTSIDE] * len(spans), [1.0] * len(spans)
    for token in np.flatnonzero(first_pieces(word_of)).tolist():
        probabilities = _softmax(logits[index][token])
        best = int(logits[index][token].argmax())
        tags[word_of[token]], scores[word_of[token]] = labels[best], float(probabilities[best])
    row = rows[index]
    answer = decode(row.text or "", spans, tags, scores)
    return answer if row.words is None else {**answer, "tags": tags}


def entities_in(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return type, first word and the word after the last of each entity, where conlleval begins and ends them.

    An entity begins at B-, at an I- after O or at the start, and at a change of type.
    """
    entities: list[tuple[str, int, int]] = []
    before = OUTSIDE
    for word, tag in enumerate(tags):
        if tag != OUTSIDE:
            continues = tag.startswith("I-") and before[2:] == tag[2:] and before != OUTSIDE
            start = entities.pop()[1] if continues else word
            entities.append((tag[2:], start, word + 1))
        before = tag
    return entities


def _entities(text: str, spans: Spans, tags: list[str], scores: list[float]) -> Answer:
    found = []
    for label, first, past in entities_in(tags):
        start, end = spans[first][0], spans[past - 1][1]
        score = _probability(sum(scores[first:past]) / (past - first))
        found.append({"text": text[start:end], "start": start, "end": end, "label": label, "score": score})
    return {"entities": found}


def _words(text: str, spans: Spans, tags: list[str], scores: list[float]) -> Answer:
    """Return the label of each word, for tags that mark no entities."""
    found = [
        {"text": text[start:end], "start": start, "end": end, "label": tag, "score": _probability(score)}
        for (start, end), tag, score in zip(spans, tags, scores, strict=True)
    ]
    return {"entities": found}


def _are_bio(labels: Sequence[str]) -> bool:
    return {label[:2] for label in labels} <= {"B-", "I-", OUTSIDE}


def _spans(form: TaskForm, rows: Sequence[Row], sequences: Sequences, logits: Logits) -> list[Answer]:
    """Return the best span of each context, with the product of the probabilities of its ends in its window."""
    assert isinstance(form.problem, QuestionAnswering)
    contexts = [row.pair or "" for row in rows]
    chosen = choose_spans(
        logits,
        sequences.spans,
        np.array(sequences.row_of),
        contexts,
        max_tokens=form.problem.max_answer_tokens,
        no_answer=form.no_answer,
    )
    answers = []
    for context, span in zip(contexts, chosen, strict=True):
        window = logits[span.window].astype(np.float64)
        most = window.max(0)
        score = np.exp(span.total - float((most + np.log(np.exp(window - most).sum(0))).sum()))
        found = {"answer": context[span.start : span.end], "start": span.start, "end": span.end}
        answers.append(
            {
                **(found if span.end > span.start else {"answer": "", "start": None, "end": None}),
                "score": _probability(score),
            }
        )
    return answers


def _choices(rows: Sequence[Row], sequences: Sequences, logits: Logits) -> list[Answer]:
    scores: list[list[np.float32]] = [[] for _ in rows]
    for position, row in zip(sequences.row_of, logits, strict=True):
        scores[position].append(row[0])
    answers = []
    for asked, values in zip(rows, scores, strict=True):
        best, probabilities = int(np.argmax(values)), _softmax(np.array(values))
        answers.append(
            {
                "choice": asked.choices[best],
                "index": best,
                "score": _probability(probabilities[best]),
                "probabilities": [_probability(value) for value in probabilities],
            }
        )
    return answers


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(powers / powers.sum())


def _probability(value: float | np.floating[Any]) -> float:
    return round(float(value), 6)


def _number(value: np.float32) -> float:
    """Return a number of 32 bits as the shortest decimal that is read as the same number."""
    return float(str(value))
