"""Bag-of-words baselines: what a task's kind can be done with, without any encoder."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar, assert_never

import numpy as np
import regex
from datasets import Dataset
from scipy.sparse import hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from schemas.core.errors import DataError
from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from stages.scores.scorer import Scorer
from stages.text.scripts import UNSPACED_LETTERS

_MAX_FEATURES = 200_000
_VECTOR_WIDTH = 4096
# Words of two letters and more, as scikit-learn has them, and single ones of other scripts than Latin; where no space
# stands between words, each letter is one. A letter comes with its marks: unlike `re`, `regex` takes the vowel signs of
# Indian scripts for parts of words (Unicode Technical Standard 18, annex C). An emoji is a word.
_BY_THEMSELVES = rf"(?=[{UNSPACED_LETTERS}\p{{So}}])\X"
_WORDS = rf"{_BY_THEMSELVES}|[^\W{UNSPACED_LETTERS}]{{2,}}|[^\W\p{{Latin}}\p{{N}}_{UNSPACED_LETTERS}]"
_ALL_WORDS = rf"{_BY_THEMSELVES}|[^\W{UNSPACED_LETTERS}]+"
_ANYTHING = r"\w+|\S"
_SENTENCE = regex.compile(r"[^.!?。！？]+[.!?。！？]*")

Vectorizer = TypeVar("Vectorizer", bound=CountVectorizer)


def bag_of_words(scorer: Scorer) -> Any:
    """What a bag-of-words model, fitted on the training rows, says about a scorer's rows; in the scorer's form."""
    train, data = scorer.task.train, scorer.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        match scorer.task.problem:
            case Classification():
                return _classes(train, data, len(scorer.task.labels))
            case MultiLabel():
                return _label_sets(train, data)
            case Regression():
                return _values(train, data)
            case TokenClassification():
                return _tags(train, data, scorer.task.labels)
            case QuestionAnswering():
                return _sentences(data)
            case MultipleChoice():
                return _nearest_choices(data)
            case Embedding():
                return _vectors(train, data)
            case _:
                assert_never(scorer.task.problem)


def _texts(data: Dataset) -> list[str]:
    first = list(data["text"])
    if "text_pair" not in data.column_names:
        return first
    return [f"{one} {two}" for one, two in zip(first, data["text_pair"], strict=True)]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


def _vectors_of(kind: type[Vectorizer], texts: Sequence[str], pattern: str, **how: Any) -> tuple[Vectorizer, Any]:
    """The words of some texts as a fitted vectorizer, and the texts' vectors.

    Where a limit leaves no word, every word counts; where there is none, every sign.
    """
    for words, limits in ((pattern, how), (pattern, how | {"min_df": 1}), (_ANYTHING, {})):
        vectorizer = kind(preprocessor=_composed, tokenizer=regex.compile(words).findall, token_pattern=None, **limits)
        try:
            return vectorizer, vectorizer.fit_transform(texts)
        except ValueError:  # says that the vocabulary is empty
            continue
    raise DataError("no row has anything but spaces; give texts")


def _counts(texts: Sequence[str]) -> tuple[CountVectorizer, Any]:
    return _vectors_of(
        CountVectorizer, texts, _WORDS, ngram_range=(1, 2), min_df=2, binary=True, max_features=_MAX_FEATURES
    )


def _nearest(text: str, others: Sequence[str]) -> int:
    """Which of the others shares most with a text, rare words above all."""
    _, vectors = _vectors_of(TfidfVectorizer, [text, *others], _ALL_WORDS)
    return int((vectors[1:] @ vectors[0].T).toarray().argmax())


def _classes(train: Dataset, data: Dataset, num_classes: int) -> np.ndarray:
    solver = "liblinear" if num_classes == 2 else "lbfgs"
    counter, learnt = _counts(_texts(train))
    model = LogisticRegression(max_iter=200, solver=solver).fit(learnt, np.asarray(train["label"]))
    return np.asarray(model.predict(counter.transform(_texts(data))))


def _label_sets(train: Dataset, data: Dataset) -> np.ndarray:
    """One logistic regression for each label; a label that all or no training rows have is answered so."""
    labels = np.asarray(train["label"], dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that a label is constant
        counter, learnt = _counts(_texts(train))
        model = OneVsRestClassifier(LogisticRegression(max_iter=200, solver="liblinear"))
        model.fit(learnt, labels)
        return np.asarray(model.predict(counter.transform(_texts(data))))


def _values(train: Dataset, data: Dataset) -> np.ndarray:
    """Ridge regression; of a pair, on what the two texts share and what only one of them has."""
    counter, _ = _counts(_texts(train))

    def features(rows: Dataset) -> Any:
        if "text_pair" not in rows.column_names:
            return counter.transform(rows["text"])
        one, other = (counter.transform(rows[name]) for name in ("text", "text_pair"))
        return hstack([one.multiply(other), abs(one - other)]).tocsr()

    model = Ridge(alpha=10.0).fit(features(train), np.asarray(train["label"]))
    return np.asarray(model.predict(features(data)), dtype=np.float64)


def _tags(train: Dataset, data: Dataset, names: Sequence[str]) -> list[list[str]]:
    """Each word by itself, its ends and its neighbours."""
    model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=100))
    tags = [names[index] for row in train["label"] for index in row]
    if len(set(tags)) == 1:  # nothing to tell apart
        return [[tags[0]] * len(row) for row in data["words"]]
    model.fit([word for row in train["words"] for word in _described(row)], tags)
    said = iter(model.predict([word for row in data["words"] for word in _described(row)]))
    return [[str(next(said)) for _ in row] for row in data["words"]]


def _described(words: Sequence[str]) -> list[dict[str, str | bool]]:
    around = ["", *(word.casefold() for word in words), ""]
    return [
        {
            "word": around[place + 1],
            "before": around[place],
            "after": around[place + 2],
            "begin": word[:2],
            "end": word[-3:],
            "title": word.istitle(),
            "upper": word.isupper(),
        }
        for place, word in enumerate(words)
    ]


def _sentences(data: Dataset) -> list[str]:
    """The sentence of the context that shares most with the question, rare words above all."""
    answers = []
    for question, context in zip(data["text"], data["text_pair"], strict=True):
        sentences = [part.strip() for part in _SENTENCE.findall(context) if part.strip()]
        sentences = sentences or [context]
        answers.append(sentences[_nearest(question, sentences)])
    return answers


def _nearest_choices(data: Dataset) -> np.ndarray:
    """The choice that shares most with passage and question, rare words above all."""
    rows = zip(_texts(data), data["choices"], strict=True)
    return np.array([_nearest(text, choices) for text, choices in rows])


def _vectors(train: Dataset, data: Dataset) -> np.ndarray:
    counter, _ = _vectors_of(TfidfVectorizer, train["text"][:], _WORDS, max_features=_VECTOR_WIDTH, sublinear_tf=True)
    texts = list(data["text"])
    if "text_pair" in data.column_names:
        texts = [text for pair in zip(data["text"], data["text_pair"], strict=True) for text in pair]
    return np.asarray(counter.transform(texts).toarray(), dtype=np.float32)
