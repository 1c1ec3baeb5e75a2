"""Sentences on what a teacher lacks: beside a bag of words, beside a probe of the pretrained model, and in training."""

from __future__ import annotations

import pytest

from pipeline.reporting.run_table import teacher_lines
from pipeline.reporting.teacher_lacks import lacks_of, with_lacks
from schemas.results.manifest import CheckpointRef, Judgement, Row, StageResult, TeacherReport
from schemas.results.score import Score
from tests.support.manifests import DIGEST

TEACHER = Judgement(scores={"f1": Score(value=0.7, low=0.6, high=0.8), "accuracy": Score(value=0.8, low=0.7, high=0.9)})


def words(value: float, low: float, high: float) -> Judgement:
    """A bag of words by its difference from the teacher."""
    return Judgement(minus_teacher=Score(value=value, low=low, high=high))


def training(steps: int = 9, **metrics: float) -> StageResult:
    named = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    checkpoint = CheckpointRef(path="/teacher", stage="teacher", digest=DIGEST)
    return StageResult(checkpoint=checkpoint, metrics=named, steps=steps, tokens=1, seconds=1.0)


def lacks(
    bag: Judgement | None = None, pretrained: Judgement | None = None, made: StageResult | None = None
) -> list[str]:
    return [*lacks_of(TEACHER, "f1", training=made, bag_of_words=bag, pretrained=pretrained)]


def test_a_teacher_is_clearly_above_words_if_the_interval_on_the_same_rows_is() -> None:
    assert lacks(words(-0.1, -0.2, -0.001)) == []
    (sentence,) = lacks(words(-0.012, -0.031, 0.004), made=training())
    assert sentence == (
        "it is not clearly above a bag of words: +1.2 points (95 % interval -0.4 to +3.1, on the same rows); train it "
        "on more tokens (teacher.task_model.training.duration), or add validation rows"
    )
    (sentence,) = lacks(words(0.02, -0.01, 0.05))
    assert "-2.0 points (95 % interval -5.0 to +1.0, on the same rows); take a better teacher" in sentence


@pytest.mark.parametrize(
    ("pretrained", "expected"),
    [
        (Judgement(probe_accuracy=0.79), None),
        (Judgement(probe_accuracy=0.8), "its accuracy of 80.0 % is not above the 80.0 % of a linear probe"),
        (Judgement(probe_score=0.69), None),
        (Judgement(probe_score=0.75), "its f1 of 70.0 % is not above the 75.0 % of a linear probe"),
        (Judgement(), None),
    ],
)
def test_fine_tuning_has_to_surpass_a_probe_of_the_pretrained_model(
    pretrained: Judgement, expected: str | None
) -> None:
    sentences = lacks(pretrained=pretrained, made=training())
    assert len(sentences) == (expected is not None)
    if expected is not None:
        assert expected in sentences[0]
        assert "set teacher.task_model.training.head_first, or train longer" in sentences[0]
        (published,) = lacks(pretrained=pretrained)
        assert "or fine-tune this one (teacher.task_model.kind=fine_tune)" in published


def test_a_score_that_still_rose_asks_for_more_tokens() -> None:
    (sentence,) = lacks(made=training(9, select_best_step=9.0))
    assert "its best score was that of the last measurement, at step 9: more tokens may make it better" in sentence
    assert lacks(made=training(9, select_best_step=6.0, train_loss=0.5, eval_loss=0.4)) == []


def test_without_a_selection_the_two_losses_tell() -> None:
    (sentence,) = lacks(made=training(train_loss=0.5, eval_loss=0.4))
    assert "its loss of 0.400 on validation rows is not above that of 0.500 in training" in sentence
    assert "teacher.task_model.training.duration" in sentence
    assert lacks(made=training(train_loss=0.1, eval_loss=0.4)) == []


def test_weaknesses_follow_the_verdict_one_a_line() -> None:
    report = TeacherReport(
        name="teacher",
        metric="f1",
        score=TEACHER.scores["f1"],
        guess=0.5,
        margin=0.2,
        verdict="weak",
        reason="r",
        lacks=("it is small", "it is young"),
    )
    first, *others = teacher_lines(report)
    assert first.startswith("teacher: weak: f1 70.0 %")
    assert others == ["teacher could be better: it is small", "teacher could be better: it is young"]


def test_the_baselines_are_compared_with_the_first_teacher_alone() -> None:
    made = training(9, select_best_step=9.0)
    teacher = TeacherReport(
        name="teacher", metric="f1", score=TEACHER.scores["f1"], guess=0.5, margin=0.2, verdict="good", reason="r"
    )
    rows = [
        Row(name=name, kind="teacher", status="ran", judgement=judgement, checkpoint=made.checkpoint)
        for name, judgement in (("teacher", TEACHER), ("multi_task_teacher", Judgement()), ("other_teacher", TEACHER))
    ]
    reports = [teacher, teacher.model_copy(update={"name": "other_teacher"})]
    bag, pretrained = words(0.1, 0.0, 0.2), Judgement(probe_accuracy=0.9)
    first, other = with_lacks(reports, rows, {"/teacher": made}, bag_of_words=bag, pretrained=pretrained)
    assert [sentence.split(" of ")[0] for sentence in first.lacks[:2]] == [
        "it is not clearly above a bag",
        "its accuracy",
    ]
    assert first.lacks[2:] == other.lacks
    assert len(other.lacks) == 1
