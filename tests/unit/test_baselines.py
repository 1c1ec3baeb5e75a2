"""What bag-of-words baselines take for a word, in scripts with spaces and without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from schemas.problems import Classification, QuestionAnswering
from stages.baselines import bag_of_words


def scorer(problem: Any, train: Dataset, data: Dataset) -> Any:
    task = SimpleNamespace(train=train, problem=problem, labels=("bad", "good"))
    return SimpleNamespace(task=task, data=data)


def rows(texts: list[str], labels: list[int]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels})


def test_chinese_characters_are_words() -> None:
    """No two rows are the same text, so that whole rows as words would say nothing."""
    fill = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面"
    draw = np.random.default_rng(0)
    labels = [place % 2 for place in range(80)]
    texts = ["".join(draw.choice(list(fill), 6)) + "差好"[label] for label in labels]
    train, data = rows(texts[:60], labels[:60]), rows(texts[60:], labels[60:])
    answers = bag_of_words(scorer(Classification(), train, data))
    assert answers.tolist() == labels[60:]


def test_english_words_are_scikit_learn_s() -> None:
    draw = np.random.default_rng(1)
    words = ["a", "film", "isn't", "x-ray", "3D", "naïve", "café_bar", "12", "dull", "great", "I"]
    texts = [" ".join(draw.choice(words, 8)) + "." for _ in range(120)]
    labels = [int("great" in text) for text in texts]
    counts = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, max_features=200_000)
    model = make_pipeline(counts, LogisticRegression(max_iter=200, solver="liblinear"))
    expected = model.fit(texts[:60], labels[:60]).predict(texts[60:])
    train, data = rows(texts[:60], labels[:60]), rows(texts[60:], labels[60:])
    assert bag_of_words(scorer(Classification(), train, data)).tolist() == expected.tolist()


def test_a_chinese_question_finds_the_sentence_that_shares_most_with_it() -> None:
    context = "长江是中国最长的河流。泰山位于山东省泰安市。黄河流经九个省区。"
    data = Dataset.from_dict({"text": ["泰山在哪个市？"], "text_pair": [context]})
    (answer,) = bag_of_words(scorer(QuestionAnswering(), data, data))
    assert answer == "泰山位于山东省泰安市。"
