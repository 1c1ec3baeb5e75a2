"""Bootstrap intervals compared with the library's score on explicitly resampled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from schemas.core.metrics import KNOWN_METRICS, MetricName
from stages.scores import bootstrap as resampling
from stages.scores.metrics import METRICS, interval, paired_difference_interval, score

ROWS = 40
RNG = np.random.default_rng(7)
TAGS = ("O", "O", "B-PER", "I-PER", "B-LOC")


def some_sentences(tag_of: Any) -> list[list[str]]:
    return [[tag_of(row, word) for word in range(3 + row % 4)] for row in range(ROWS)]


def some_data() -> dict[str, tuple[Any, Any]]:
    """Labels and predictions of each kind of task, partly correct, with ties."""
    classes = RNG.integers(0, 3, ROWS)
    values = RNG.integers(0, 6, ROWS) * 1.0
    labels = RNG.random((ROWS, 4)) < 0.3
    vectors = RNG.normal(size=(ROWS, 5))
    tags = some_sentences(lambda *_: str(RNG.choice(TAGS)))
    answers = ["the tall tree", "a tree", "no tree at all", "北京大学", ""]
    answered = np.where(RNG.random(ROWS) < 0.6, classes, 1)
    return {
        "classification": (classes, answered),
        "multiple_choice": (classes, answered),
        "multi_label": (labels, labels ^ (RNG.random((ROWS, 4)) < 0.2)),
        "regression": (values, np.round(values + RNG.normal(size=ROWS), 0)),
        "token_classification": (
            tags,
            some_sentences(lambda row, word: tags[row][word] if RNG.random() < 0.7 else "O"),
        ),
        "question_answering": (
            [[answers[row % 5], answers[row % 3]] if row % 5 < 4 else [] for row in range(ROWS)],
            [answers[RNG.integers(5)] for _ in range(ROWS)],
        ),
        "embedding": (vectors, vectors + RNG.normal(size=(ROWS, 5))),
    }


DATA = some_data()
CASES = [
    (metric, problem)
    for metric, facts in KNOWN_METRICS.items()
    for problem in facts.problems
    # There pairs are resampled, and a labelled similarity is scored like any other value.
    if (problem, metric) != ("embedding", "similarity_spearman")
    and (problem == "regression" or metric not in ("pearson", "spearman", "pearson_spearman"))
]


def picked(rows: Any, drawn: np.ndarray) -> Any:
    return rows[drawn] if isinstance(rows, np.ndarray) else [rows[row] for row in drawn]


@pytest.mark.parametrize(("metric", "problem"), CASES)
def test_a_resampled_score_equals_the_score_of_the_drawn_rows(metric: MetricName, problem: str) -> None:
    labels, answers = DATA[problem]
    draws = METRICS[metric].resampler(labels, answers).draws(30, seed=3)
    generator = np.random.default_rng(3)
    slow = [
        score(metric, picked(labels, drawn), picked(answers, drawn))
        for drawn in generator.integers(ROWS, size=(30, ROWS))
    ]
    np.testing.assert_allclose(draws, slow, atol=1e-12)
    assert np.ptp(draws) > 0


@pytest.mark.parametrize(("metric", "problem"), CASES)
def test_drawing_every_row_once_gives_the_score_itself(metric: MetricName, problem: str) -> None:
    labels, answers = DATA[problem]
    rows = METRICS[metric].resampler(labels, answers)
    assert rows.values(np.ones((1, rows.units)))[0] == pytest.approx(score(metric, labels, answers))
    assert KNOWN_METRICS[metric].lowest <= score(metric, labels, answers) < 1


@pytest.mark.parametrize(("metric", "problem"), CASES)
def test_perfect_predictions_have_an_interval_of_zero_width(metric: MetricName, problem: str) -> None:
    labels, _ = DATA[problem]
    if problem == "question_answering":
        predictions = [answers[0] if answers else "" for answers in labels]
    else:
        predictions = labels
    assert score(metric, labels, predictions) == pytest.approx(1)
    assert interval(metric, labels, predictions, resamples=50) == pytest.approx((1, 1))


def test_similarities_are_resampled_by_pairs_of_rows() -> None:
    teacher, student = DATA["embedding"]
    order = np.random.default_rng(0).permutation(ROWS)
    left, right = order[: ROWS // 2], order[ROWS // 2 :]

    def cosines(vectors: np.ndarray) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return (unit[left] * unit[right]).sum(1)

    both = cosines(teacher), cosines(student)
    expected = spearmanr(*both).statistic
    assert score("similarity_spearman", teacher, student) == pytest.approx(expected)
    draws = METRICS["similarity_spearman"].resampler(teacher, student).draws(20, seed=1)
    drawn = np.random.default_rng(1).integers(ROWS // 2, size=(20, ROWS // 2))
    slow = [spearmanr(both[0][rows], both[1][rows]).statistic for rows in drawn]
    np.testing.assert_allclose(draws, slow, atol=1e-12)


def test_draws_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    before = interval("spearman", *DATA["regression"], resamples=100)
    monkeypatch.setattr(resampling, "_COUNTS_AT_ONCE", 7 * ROWS)
    assert interval("spearman", *DATA["regression"], resamples=100) == before
    monkeypatch.setattr(resampling, "_COUNTS_AT_ONCE", 1)
    assert interval("spearman", *DATA["regression"], resamples=100) == before


def test_an_interval_is_repeatable_and_grows_with_its_level() -> None:
    labels, answers = DATA["classification"]
    narrow = interval("accuracy", labels, answers, level=0.5)
    wide = interval("accuracy", labels, answers, level=0.99)
    assert wide[0] < narrow[0] < score("accuracy", labels, answers) < narrow[1] < wide[1]
    assert interval("accuracy", labels, answers) == interval("accuracy", labels, answers)
    assert interval("pearson", *DATA["regression"]) != interval("pearson", *DATA["regression"], seed=1)


def test_correlations_of_values_far_from_zero_keep_their_precision() -> None:
    labels, answers = DATA["regression"]
    near = resampling.of_pearson(labels, answers).draws(1000, seed=0)
    far = resampling.of_pearson(labels + 1e8, answers + 1e8).draws(1000, seed=0)
    np.testing.assert_allclose(far, near, atol=1e-6)


def test_a_draw_of_equal_labels_scores_zero() -> None:
    one_differs = np.r_[np.ones(9), 2.0]
    for metric in ("pearson", "spearman"):
        draws = METRICS[metric].resampler(one_differs, one_differs).draws(200, seed=0)
        # The row that differs is left out of (1 - 1/10)^10 = 35 % of the draws.
        assert set(np.round(draws, 9)) == {0.0, 1.0}
        assert 0.2 < (draws == 0).mean() < 0.5


def test_a_draw_of_equal_predictions_scores_zero() -> None:
    answers = np.r_[np.full(9, 0.1), 0.7]
    for metric in ("pearson", "spearman"):
        draws = METRICS[metric].resampler(np.arange(10.0), answers).draws(200, seed=0)
        assert 0.2 < (draws == 0).mean() < 0.5
        assert (draws[draws != 0] > 0.1).all()


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_non_finite_predictions_have_an_interval_of_zero(metric: str) -> None:
    labels = np.arange(10.0)
    assert interval(metric, labels, np.r_[labels[:-1], np.nan]) == (0.0, 0.0)


def test_a_label_missing_from_a_draw_is_scored_like_scikit_learn() -> None:
    classes = np.array([0, 1, 0, 1, 0, 2])
    answers = np.array([0, 1, 0, 1, 1, 2])
    for labels, predictions in ((classes, answers), (np.eye(3)[classes], np.eye(3)[answers])):
        draws = METRICS["f1_macro"].resampler(labels, predictions).draws(40, seed=0)
        drawn = np.random.default_rng(0).integers(6, size=(40, 6))
        assert any(5 not in rows for rows in drawn)
        np.testing.assert_allclose(draws, [score("f1_macro", labels[rows], predictions[rows]) for rows in drawn])


def test_a_paired_difference_has_a_narrower_interval_than_two_separate_scores() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    hard = draw.random(400) < 0.3
    teacher = np.where(hard & (draw.random(400) < 0.5), 1 - labels, labels)
    student = np.where(hard & (draw.random(400) < 0.1), 1 - teacher, teacher)
    low, high = paired_difference_interval("accuracy", labels, student, teacher)
    difference = score("accuracy", labels, student) - score("accuracy", labels, teacher)
    assert low <= difference <= high
    apart = [interval("accuracy", labels, answers) for answers in (student, teacher)]
    assert high - low < 0.7 * min(above - below for below, above in apart)
    assert paired_difference_interval("accuracy", labels, teacher, teacher) == (0.0, 0.0)


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "spearman"])
def test_intervals_cover_the_true_score_at_about_their_level(metric: MetricName) -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        if metric == "spearman":
            labels = draw.normal(size=150)
            answers = 0.6 * labels + 0.8 * draw.normal(size=150)
            # Of normal values with a correlation of 0.6 (Pearson 1907).
            truth = 6 / np.pi * np.arcsin(0.6 / 2)
        else:
            labels = draw.integers(0, 2, 150)
            answers = np.where(draw.random(150) < 0.8, labels, 1 - labels)
            truth = 0.8 if metric == "accuracy" else 0.6
        low, high = interval(metric, labels, answers, level=0.9, resamples=200)
        covered += low <= truth <= high
    # 200 draws at 0.9 are outside these bounds once in ten thousand.
    assert 0.80 <= covered / 200 <= 0.97
