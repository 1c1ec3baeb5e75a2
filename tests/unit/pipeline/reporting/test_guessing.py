"""The score of the majority baseline, verdicts on teachers, and agreement not dominated by frequent labels."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import f1_score

from pipeline.reporting.teacher_verdict import _Measured
from schemas.core.kinds import MultiLabel, QuestionAnswering, Regression, TokenClassification
from schemas.recipe.parts import Evaluation
from schemas.results.score import Score
from stages.data.batching.tokens import Tokens
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.judge import Yardstick
from stages.kinds.rows import TaskRows


def scorer(problem: Any, labels: str, **columns: Any) -> AnyScorer:
    rows = Dataset.from_dict(columns)
    task = TaskRows(rows, rows, tuple(labels.split()), "0" * 64, problem)
    return scorer_of(task, "validation", cast(Tokens, None), np.arange(len(rows)))


def test_the_best_constant_label_set_equals_an_exhaustive_search() -> None:
    draw = np.random.default_rng(0)
    right = (draw.random((60, 4)) < (0.5, 0.3, 0.12, 0.05)).astype(int)
    guesser = scorer(MultiLabel(), "a b c d", label=right.tolist())
    constants = [np.tile(constant, (60, 1)) for constant in product((0, 1), repeat=4)]
    for metric, average in (("f1_micro", "micro"), ("f1_macro", "macro")):
        best = max(f1_score(right, constant, average=average, zero_division=0.0) for constant in constants)
        assert guesser.guessed(metric) == pytest.approx(best)
    rows_right = max((right == constant).all(1).mean() for constant in constants)
    assert guesser.guessed("subset_accuracy") == pytest.approx(rows_right)


def test_agreement_on_labels_ignores_those_neither_model_predicts() -> None:
    guesser = scorer(MultiLabel(), "a b", label=[[1, 0], [0, 1]])
    student, teacher = np.zeros((50, 20), int), np.zeros((50, 20), int)
    student[:, 0], teacher[:25, 0], teacher[25:, 1] = 1, 1, 1
    assert guesser.agreement(student, teacher) == pytest.approx(25 / 75)
    assert (student == teacher).mean() == 0.95, "the agreement over all labels"
    assert guesser.agreement(student, student) == guesser.agreement(0 * student, 0 * student) == 1.0
    assert guesser.agreement(student, 0 * student) == 0.0


def test_agreement_on_tags_ignores_words_both_models_tag_o() -> None:
    words = [["w"] * 100] * 2
    labels = [[0] * 99 + [1]] * 2
    tagger = scorer(TokenClassification(), "O B-PER I-PER", words=words, label=labels)
    nothing = [["O"] * 100] * 2
    teacher = [["B-PER", "I-PER", *["O"] * 98], ["O"] * 99 + ["B-PER"]]
    student = [["B-PER", *["O"] * 99], ["O"] * 98 + ["B-PER", "O"]]
    assert tagger.agreement(nothing, teacher) == 0.0, "97 of 100 words are O for both"
    # B-PER is equal; I-PER, and the two B-PER of the second sentence, are not.
    assert tagger.agreement(student, teacher) == tagger.agreement(teacher, student) == 1 / 4
    assert tagger.agreement(teacher, teacher) == tagger.agreement(nothing, nothing) == 1.0


def test_the_tag_baseline_is_the_most_frequent_tag() -> None:
    labels = [[1, 1, 2], [1, 2]]
    tagger = scorer(TokenClassification(), "X NOUN VERB", words=[["w"] * 3, ["w"] * 2], label=labels)
    assert tagger.guessed("token_accuracy") == pytest.approx(3 / 5)


def test_the_answer_baseline_is_no_answer() -> None:
    columns = {"text": ["q"] * 4, "text_pair": ["c"] * 4, "answers": [[], ["tree"], [], []]}
    assert scorer(QuestionAnswering(), "start end", **columns).guessed("squad_f1") == 0.75


def measured(
    value: float, guess: float, *, gain: float = 0.05, low: float | None = None, words: Score | None = None
) -> Any:
    score = Score(value=value, low=value if low is None else low, high=value, of="fraud")
    return _Measured(score, guess, gain, 0.5 if words else None, words, None, None)


@pytest.mark.parametrize(("high", "verdict"), [(-0.001, "good"), (0.0, "weak"), (0.02, "weak")])
def test_a_teacher_that_may_equal_a_bag_of_words_is_weak(high: float, verdict: str) -> None:
    report = measured(0.9, 0.4, words=Score(value=-0.05, low=-0.1, high=high)).report("teacher", "f1")
    assert report.verdict == verdict
    assert ("a bag of words scores 50.0 %" in report.reason) == (verdict == "weak")


@pytest.mark.parametrize(
    ("value", "guess", "verdict"),
    [
        (1.0, 0.97, "good"),  # nothing better is possible
        (0.98, 0.97, "good"),  # a third of what can be gained
        (0.9714, 0.97, "useless"),  # less than a twentieth of it
        (0.9716, 0.97, "good"),
        (0.97, 0.97, "useless"),
        (0.0, 0.0, "useless"),  # F1 0, or no correlation
        (0.0, 0.18, "useless"),
        (0.04, 0.0, "useless"),
        (0.06, 0.0, "good"),
        (0.812, 0.812, "useless"),  # MRPC's F1 of the more frequent class
        (0.86, 0.812, "good"),
    ],
)
def test_a_good_teacher_gains_the_minimum_share_over_the_baseline(value: float, guess: float, verdict: str) -> None:
    report = measured(value, guess).report("teacher", "f1")
    assert report.verdict == verdict
    assert report.gain == pytest.approx((value - guess) / (1 - guess))
    if verdict == "useless":
        assert "a student can learn nothing" in report.reason


def test_a_teacher_whose_interval_reaches_below_the_minimum_is_weak() -> None:
    assert measured(0.98, 0.97, low=0.96).verdict == "weak"
    assert measured(0.98, 0.97, low=0.9716).verdict == "good"


def test_a_teacher_is_useless_if_the_baseline_is_always_right() -> None:
    report = measured(1.0, 1.0).report("teacher", "accuracy")
    assert (report.verdict, report.gain) == ("useless", None)
    assert "right in every validation row" in report.reason


def test_the_reason_states_the_gained_and_the_minimum_share() -> None:
    reason = measured(0.975, 0.97, gain=0.5).report("teacher", "accuracy").reason
    assert "97.5 % where always giving the best constant answer scores 97.0 %, 16.7 % of what can be gained" in reason
    assert "teacher.minimum_gain asks for 50.0 %" in reason


@pytest.mark.parametrize(
    ("factor", "offset", "verdict"), [(1.0, 0.0, "good"), (0.4, 1.4, "good"), (0.2, 0.0, "weak"), (20.0, 0.0, "weak")]
)
def test_a_teacher_with_values_in_other_units_is_reported(factor: float, offset: float, verdict: str) -> None:
    labels = np.linspace(0, 5, 40)
    right = scorer(Regression(), "value", text=["a"] * 40, label=labels.tolist())
    nothing = cast(Any, None)
    yardstick = Yardstick(Evaluation(), None, nothing, "", "", nothing, "pearson", has_head=True, scorer=right)
    vars(yardstick)["teacher_answers"] = factor * labels + offset  # what a model was asked for
    score = right.scores("pearson", yardstick.teacher_answers)["pearson"]
    assert score.value == pytest.approx(1), "correlations do not reveal it"
    report = _Measured(score, 0.0, 0.05, None, None, None, yardstick).report("teacher", "pearson")
    assert report.verdict == verdict
    assert ("it seems to answer in other units" in report.reason) == (verdict == "weak")
