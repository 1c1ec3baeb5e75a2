"""Scores against scikit-learn, scipy, nervaluate and arithmetic by hand."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from schemas.core.errors import DataError
from schemas.core.kinds import KindName
from schemas.core.metrics import DEFAULT_METRIC, KNOWN_METRICS, MetricName, check_metrics, metrics_of
from stages.scores.metrics import METRICS, entity_counts, interval, say_nothing, score

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
sentences = st.lists(st.lists(st.sampled_from(TAGS), min_size=1, max_size=8), min_size=1, max_size=6)


def test_every_metric_name_has_a_function_and_every_kind_a_default() -> None:
    assert set(KNOWN_METRICS) == set(METRICS) == set(get_args(MetricName))
    assert set(DEFAULT_METRIC) == set(get_args(KindName))
    for problem, metric in DEFAULT_METRIC.items():
        assert metrics_of(problem)[0] == metric
        assert problem in KNOWN_METRICS[metric].problems


@pytest.mark.parametrize(
    ("metrics", "problem", "message"),
    [
        (["acuracy"], "classification", r"there is no metric 'acuracy'; for classification .* are accuracy, f1,"),
        (["f1"], "regression", r"f1 does not score regression tasks; .* are pearson_spearman, pearson, spearman"),
        (["accuracy", "accuracy"], "classification", "listed twice"),
    ],
)
def test_an_unsuitable_metric_is_refused_with_the_suitable_ones(
    metrics: list[str], problem: KindName, message: str
) -> None:
    check_metrics(metrics_of(problem), problem)
    with pytest.raises(ValueError, match=message):
        check_metrics(metrics, problem)


# Classes.


def test_scores_of_two_classes_follow_from_the_confusion_matrix() -> None:
    labels, answers = [1, 1, 1, 0, 0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1, 0, 1, 0, 1]
    tp, fp, fn, tn = 3, 2, 1, 4
    accuracy, f1 = (tp + tn) / 10, 2 * tp / (2 * tp + fp + fn)
    f1_of_0 = 2 * tn / (2 * tn + fp + fn)
    spread = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score("accuracy", labels, answers) == pytest.approx(accuracy)
    assert score("f1", labels, answers) == pytest.approx(f1)
    assert score("accuracy_f1", labels, answers) == pytest.approx((accuracy + f1) / 2)
    assert score("f1_macro", labels, answers) == pytest.approx((f1 + f1_of_0) / 2)
    assert score("f1_micro", labels, answers) == pytest.approx(accuracy)
    assert score("matthews", labels, answers) == pytest.approx((tp * tn - fp * fn) / spread)


def test_f1_of_many_classes_is_that_of_the_second() -> None:
    assert score("f1", [0, 1, 2, 1], [2, 1, 2, 0]) == pytest.approx(2 * 1 / (2 * 1 + 0 + 1))


def test_scores_of_label_sets_equal_those_of_scikit_learn() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
    answers = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]])
    # By label: 2 of 2 right and none too many; 1 of 2; 1 right, 1 too many.
    by_label = [1.0, 2 * 1 / (2 * 1 + 0 + 1), 2 * 1 / (2 * 1 + 1 + 0)]
    assert score("f1_macro", labels, answers) == pytest.approx(np.mean(by_label))
    assert score("f1_micro", labels, answers) == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert score("subset_accuracy", labels, answers) == 0.5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_scores_of_classes_equal_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, answers = np.array(rows).T
    assert score("accuracy", labels, answers) == accuracy_score(labels, answers)
    expected = f1_score(labels, answers, average="macro", zero_division=0.0)
    assert score("f1_macro", labels, answers) == expected
    covariance = np.cov(np.eye(4)[labels].T, np.eye(4)[answers].T, bias=True)
    between, within = covariance[:4, 4:], (covariance[:4, :4], covariance[4:, 4:])
    spread = np.sqrt(np.trace(within[0]) * np.trace(within[1])) if len(rows) > 1 else 0.0
    matthews = np.trace(between) / spread if spread > 1e-12 else 0.0
    assert score("matthews", labels, answers) == pytest.approx(matthews, abs=1e-9)


# Values.


def test_correlations_equal_those_of_scipy_and_their_mean_is_the_sts_b_score_of_glue() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 6, 50) * 1.0
    answers = labels + draw.normal(size=50)
    pearson, spearman = pearsonr(labels, answers).statistic, spearmanr(labels, answers).statistic
    assert score("pearson", labels, answers) == pytest.approx(pearson)
    assert score("spearman", labels, answers) == pytest.approx(spearman)
    assert score("pearson_spearman", labels, answers) == pytest.approx((pearson + spearman) / 2)
    assert score("spearman", labels, np.exp(-labels)) == pytest.approx(-1)


def test_nearly_constant_values_cause_no_warning() -> None:
    nearly = 1e9 + np.array([0.0, 1e-6, 2e-6, 4e-6])
    assert -1 <= score("pearson", [1.0, 2.0, 3.0, 4.0], nearly) <= 1


def test_values_that_differ_only_by_rounding_have_no_correlation() -> None:
    labels = np.linspace(0, 5, 50)
    # Predictions of an untrained student: scipy gives a correlation of 24 % or more.
    answers = np.float32(0.07275935) + np.float32(2e-7) * (labels > 3).astype(np.float32)
    assert pearsonr(labels, answers).statistic > 0.24
    for metric in ("pearson", "spearman", "pearson_spearman"):
        assert score(metric, labels, answers) == 0
        assert interval(metric, labels, answers) == (0, 0)
    assert say_nothing(labels, answers)
    assert say_nothing(2000 + labels, 2000 + np.float32(1e-4) * (labels > 3)), "of their own size"
    small = labels * 1e-3
    assert not say_nothing(labels, small)
    assert score("pearson", labels, small) == pytest.approx(1)


# Constant predictions, constant labels, a single row: 0, without a warning (which would raise).
@pytest.mark.parametrize(
    ("metric", "labels", "answers"),
    [
        ("f1", [0, 0, 0], [0, 0, 0]),
        ("f1_micro", [[0, 0]] * 3, [[0, 0]] * 3),
        ("f1_macro", [[0, 0]] * 3, [[0, 0]] * 3),
        ("matthews", [0, 1, 1], [1, 1, 1]),
        ("matthews", [1, 1, 1], [1, 1, 1]),
        ("matthews", [1], [1]),
        ("pearson", [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]),
        ("spearman", [1.0, 1.0, 1.0], [4.0, 5.0, 6.0]),
        ("pearson_spearman", [1.0], [4.0]),
        ("pearson", [1.0, 2.0, 3.0], [float("nan"), 4.0, 4.0]),
        ("spearman", [1.0, 2.0, 3.0], [float("nan"), 4.0, 5.0]),
        ("entity_f1", [["O", "O"]], [["O", "O"]]),
        ("token_accuracy", [[]], [[]]),
        ("cosine", [[0.0, 0.0]], [[1.0, 0.0]]),
        ("cosine", [[1.0, 0.0]] * 2, [[float("inf"), 1.0], [float("nan"), 1.0]]),
        ("similarity_spearman", [[1.0, 0.0]], [[1.0, 0.0]]),
        ("similarity_spearman", [[1.0, 0.0]] * 6, [[0.3, 1.0]] * 6),
    ],
)
def test_an_undefined_score_is_zero_without_a_warning(metric: str, labels: Any, answers: Any) -> None:
    assert score(metric, labels, answers) == 0.0


@pytest.mark.parametrize(("labels", "answers"), [([], []), ([1, 0], [1])])
def test_numbers_of_predictions_and_labels_must_be_equal(labels: list[int], answers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^accuracy: . labels and . predictions"):
        score("accuracy", labels, answers)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no metric 'bleu'; there are accuracy, "):
        score("bleu", [1], [1])


# Tags.


def conlleval_counts(right: list[str], guessed: list[str]) -> tuple[int, int, int]:
    """Return matching, correct and predicted chunks, counted word by word like conlleval's state machine."""
    correct = found_correct = found_guessed = 0
    in_correct = False
    last = [("O", ""), ("O", "")]
    for tags in [*zip(right, guessed, strict=True), ("O", "O")]:
        now = [(tag[0], tag[2:]) for tag in tags]
        ends = [old[0] != "O" and (new[0] in "BO" or old[1] != new[1]) for old, new in zip(last, now, strict=True)]
        starts = [
            new[0] == "B" or (new[0] == "I" and (old[0] == "O" or old[1] != new[1]))
            for old, new in zip(last, now, strict=True)
        ]
        if in_correct:
            if all(ends) and last[0][1] == last[1][1]:
                in_correct, correct = False, correct + 1
            elif ends[0] != ends[1] or now[0][1] != now[1][1]:
                in_correct = False
        if all(starts) and now[0][1] == now[1][1]:
            in_correct = True
        found_correct, found_guessed = found_correct + starts[0], found_guessed + starts[1]
        last = now
    return correct, found_correct, found_guessed


@pytest.mark.parametrize(
    ("right", "guessed", "counts"),
    [
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", (2, 2, 2)),
        ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", (1, 2, 2)),  # too short
        ("B-PER I-PER O B-LOC", "I-PER I-PER O I-LOC", (2, 2, 2)),  # I- begins one after O
        ("B-PER I-PER O", "B-LOC I-LOC O", (0, 1, 1)),  # another type
        ("B-PER I-PER I-PER", "B-PER I-LOC I-LOC", (0, 1, 2)),  # a change of type begins another
        ("B-PER B-PER", "B-PER I-PER", (0, 2, 1)),  # neighbours
        ("I-PER I-PER B-PER", "B-PER I-PER B-PER", (2, 2, 2)),  # IOB1 and IOB2
        ("O O", "B-PER I-PER", (0, 0, 1)),
        ("B-creative-work I-creative-work", "B-creative-work I-creative-work", (1, 1, 1)),
    ],
)
def test_entities_are_counted_as_by_conlleval(right: str, guessed: str, counts: tuple[int, int, int]) -> None:
    labels, answers = [right.split()], [guessed.split()]
    assert tuple(entity_counts(labels, answers)[0]) == counts
    assert conlleval_counts(labels[0], answers[0]) == counts
    common, of_labels, of_answers = counts
    assert score("entity_f1", labels, answers) == pytest.approx(2 * common / (of_labels + of_answers))


@given(sentences, st.randoms(use_true_random=False))
def test_entity_f1_equals_that_of_conlleval_and_nervaluate(right: list[list[str]], draw: Any) -> None:
    guessed = [[draw.choice((tag, draw.choice(TAGS))) for tag in tags] for tags in right]
    counts = entity_counts(right, guessed)
    expected = [conlleval_counts(*both) for both in zip(right, guessed, strict=True)]
    assert counts.tolist() == [list(row) for row in expected]
    strict = Evaluator(right, guessed, tags=["PER", "LOC"], loader="list").evaluate()["overall"]
    assert score("entity_f1", right, guessed) == pytest.approx(strict["strict"].f1)


@pytest.mark.parametrize("tag", ["S-PER", "PER", "B", "", "b-PER"])
def test_tags_of_another_scheme_are_refused_with_the_remedy(tag: str) -> None:
    message = rf"entity_f1: the tag '{tag}' is not of the BIO scheme .*rewrite the tags, or score .* by token_accuracy"
    for labels, answers in ([["O"], [tag]], [[tag], ["O"]]):
        with pytest.raises(DataError, match=message):
            score("entity_f1", [labels], [answers])
    assert score("token_accuracy", [[tag, "O"], ["O"]], [[tag, tag], ["O"]]) == pytest.approx(2 / 3)


# Answers in words.


@pytest.mark.parametrize(
    ("right", "answer", "exact", "f1"),
    [
        (["The Broncos"], "broncos", 1, 1),  # article, case
        (["Denver Broncos"], "the Broncos.", 0, 2 / 3),  # 1 word of 2 and of 1
        (["a cat sat", "two cats sat"], "two cats", 0, 0.8),  # the nearest answer counts: 2 of 3 and of 2
        (["to to"], "to", 0, 2 / 3),  # a word counts as often as both have it
        (["U.S."], "us", 1, 1),  # punctuation leaves no gap
        (["well-known"], "well known", 0, 0),
        (["theatre"], "atre", 0, 0),  # articles are words of their own
        ([], "", 1, 1),  # no answer, and none predicted
        ([], "anything", 0, 0),
        (["yes"], "", 0, 0),
        (["the", "Paris"], "", 0, 0),  # an answer of articles alone does not reward an empty prediction
        (["the"], "", 1, 1),  # unless there is no other
        (["北京大学"], "北京大学", 1, 1),  # Chinese stays as it is
        (["北京大学"], "北京", 0, 0),  # and is one word
    ],
)
def test_answers_are_scored_like_squad(right: list[str], answer: str, exact: float, f1: float) -> None:
    assert score("exact_match", [right], [answer]) == exact
    assert score("squad_f1", [right], [answer]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("right", "answer", "exact", "f1"),
    [
        (["北京大学"], "北京大学。", 1, 1),
        (["北京大学"], "北京", 0, 2 * 2 / (4 + 2)),
        (["《红楼梦》"], "红楼梦", 1, 1),
        (["北京大学"], "北大", 0, 2 * 1 / (4 + 2)),  # the longest run, not every character in common
        (["使用iPhone 4S手机"], "iphone 4s", 0, 2 * 2 / (6 + 2)),  # other words are tokens
        (["1998年10月", "1998年"], "1998年", 1, 1),
        (["A"], "", 0, 0),  # a letter is no article here
        (["A"], "a", 1, 1),
        ([], "", 1, 1),
        (["一"], "二", 0, 0),
    ],
)
def test_answers_are_scored_like_cmrc(right: list[str], answer: str, exact: float, f1: float) -> None:
    assert score("cmrc_exact_match", [right], [answer]) == exact
    assert score("cmrc_f1", [right], [answer]) == pytest.approx(f1)


# Vectors.


def test_cosine_is_the_mean_over_rows() -> None:
    teacher = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]
    student = [[2.0, 0.0], [1.0, 0.0], [4.0, 3.0]]
    assert score("cosine", teacher, student) == pytest.approx((1 + 0 + 24 / 25) / 3)
    with pytest.raises(ValueError, match="2 wide and the student's 3; score by similarity_spearman"):
        score("cosine", teacher, [[1.0, 2.0, 3.0]] * 3)


def test_similarities_of_vectors_of_different_widths_are_compared() -> None:
    draw = np.random.default_rng(0)
    teacher = draw.normal(size=(200, 8))
    turned = teacher @ np.linalg.qr(draw.normal(size=(8, 8)))[0]
    wider = np.hstack([turned, np.zeros((200, 5))])
    assert score("similarity_spearman", teacher, wider) == pytest.approx(1)
    assert abs(score("similarity_spearman", teacher, draw.normal(size=(200, 4)))) < 0.3
