"""The words of bag-of-words baselines, in scripts with and without spaces."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import regex
from datasets import Dataset
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from schemas.core.kinds import Classification, MultiLabel, MultipleChoice, QuestionAnswering, TokenClassification
from stages.data.batching.tokens import Tokens
from stages.evaluation.baselines import bag_of_words
from stages.evaluation.scorer import scorer_of
from stages.kinds.rows import TaskRows
from stages.text.bag_of_words import WORDS, pair_features, word_counts


def scorer(problem: Any, train: Dataset, data: Dataset) -> Any:
    task = TaskRows(train, data, ("bad", "good"), "", problem)
    return scorer_of(task, "validation", cast(Tokens, None), np.arange(len(data)))


def rows(texts: list[str], labels: list[int]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels})


def test_chinese_characters_are_words() -> None:
    """No text occurs twice, so whole rows as words could not predict the label."""
    fill = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面"
    draw = np.random.default_rng(0)
    labels = [index % 2 for index in range(80)]
    texts = ["".join(draw.choice(list(fill), 6)) + "差好"[label] for label in labels]
    train, data = rows(texts[:60], labels[:60]), rows(texts[60:], labels[60:])
    answers = bag_of_words(scorer(Classification(), train, data))
    assert answers.tolist() == labels[60:]


def test_english_words_equal_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    words = ["a", "film", "isn't", "x-ray", "3D", "naïve", "café_bar", "12", "dull", "great", "I"]
    texts = [" ".join(draw.choice(words, 8)) + "." for _ in range(120)]
    labels = [int("great" in text) for text in texts]
    counts = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, max_features=200_000)
    model = make_pipeline(counts, LogisticRegression(max_iter=200, solver="liblinear"))
    expected = model.fit(texts[:60], labels[:60]).predict(texts[60:])
    train, data = rows(texts[:60], labels[:60]), rows(texts[60:], labels[60:])
    assert bag_of_words(scorer(Classification(), train, data)).tolist() == expected.tolist()


def test_a_chinese_question_selects_the_sentence_with_the_largest_overlap() -> None:
    context = "长江是中国最长的河流。泰山位于山东省泰安市。黄河流经九个省区。"
    data = Dataset.from_dict({"text": ["泰山在哪个市？"], "text_pair": [context]})
    (answer,) = bag_of_words(scorer(QuestionAnswering(), data, data))
    assert answer == "泰山位于山东省泰安市。"


def test_vowel_signs_of_indian_scripts_are_parts_of_words() -> None:
    """The rows differ only by कि and की, which are two words between blanks and one by their letters."""
    draw = np.random.default_rng(2)
    fill = "आधुनिक मानक हिन्दी फिल्म अच्छा यह वह देखा बहुत समय".split()
    labels = [index % 2 for index in range(120)]
    texts = [" ".join([*draw.choice(fill, 4), ("कि", "की")[label], *draw.choice(fill, 2)]) for label in labels]
    train, data = rows(texts[:80], labels[:80]), rows(texts[80:], labels[80:])
    assert bag_of_words(scorer(Classification(), train, data)).tolist() == labels[80:]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("आधुनिक मानक हिन्दी की फिल्म", ["आधुनिक", "मानक", "हिन्दी", "की", "फिल्म"]),
        ("தமிழ் மொழி न", ["தமிழ்", "மொழி", "न"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("못 봤다", ["못", "봤다"]),
        ("ไม่ดี", ["ไ", "ม่", "ดี"]),
        ("great 😀 👩\u200d🚀 a 1", ["great", "😀", "👩\u200d🚀"]),
        ("cafe\u0301", ["cafe\u0301"]),
    ],
)
def test_words_are_split_in_many_scripts(text: str, words: list[str]) -> None:
    assert regex.findall(WORDS, text) == words


@pytest.mark.parametrize("texts", [["2+2", "2-2"], ["!", "?"], ["a", "b"], ["no two", "are alike"]])
def test_texts_without_letters_are_distinguished_by_their_signs(texts: list[str]) -> None:
    data = rows(texts * 20, [0, 1] * 20)
    assert bag_of_words(scorer(Classification(), data, data)).tolist() == [0, 1] * 20


@pytest.mark.parametrize("problem", [Classification(), MultiLabel()], ids=lambda problem: problem.kind)
def test_pairs_are_compared_by_the_words_that_they_share(problem: Any) -> None:
    """Every text has its own words, so that words of both in one bag tell nothing."""
    draw = np.random.default_rng(3)
    labels = np.arange(400) % 2
    words = [f"word{index}" for index in range(60)]
    first, second = [], []
    for label in labels:
        some = draw.permutation(words)
        first.append(" ".join(some[:5]))
        second.append(" ".join([*some[:2], *some[10:13]] if label else some[10:15]))
    answers = labels if isinstance(problem, Classification) else np.stack([1 - labels, labels], axis=1)
    pairs = Dataset.from_dict({"text": first, "text_pair": second, "label": answers.tolist()})
    train, data = pairs.select(range(300)), pairs.select(range(300, 400))
    assert (bag_of_words(scorer(problem, train, data)) == answers[300:]).mean() > 0.95


def test_the_cosine_of_a_pair_is_that_of_its_binary_counts() -> None:
    counter, _ = word_counts(["one two three", "one two three", "four", "four"])
    features = pair_features(counter, ["one two three", "four", "five"], ["two four", "four", "one"]).toarray()
    # Words and pairs of words: {one, two, three, one two, two three} and {two, four} share one of five and two.
    assert features[:, -1] == pytest.approx([1 / np.sqrt(5 * 2), 1.0, 0.0])


def test_a_question_without_words_gets_a_prediction() -> None:
    data = Dataset.from_dict({"text": ["?", "…"], "text_pair": ["One. Two.", "!!"]})
    assert bag_of_words(scorer(QuestionAnswering(), data, data)) == ["One.", "!!"]


def test_choices_without_words_get_a_prediction() -> None:
    data = Dataset.from_dict({"text": ["+ ="], "choices": [["-", "+", "="]], "label": [0]})
    assert bag_of_words(scorer(MultipleChoice(), data, data)).tolist() in ([1], [2])


def test_identical_tags_are_predicted_as_such() -> None:
    data = Dataset.from_dict({"words": [["a", "b"], ["c"]], "label": [[0, 0], [0]]})
    assert bag_of_words(scorer(TokenClassification(), data, data)) == [["bad", "bad"], ["bad"]]
