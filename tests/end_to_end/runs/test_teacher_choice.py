"""Several fine-tuned candidates, of which the best is the teacher, and the verdict on a teacher's quality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.execution.stage_runner import CANDIDATE_TAG, CHOSEN_TAG
from pipeline.planning.candidates import best_of, score_of
from pipeline.planning.differences import difference_from_store
from pipeline.planning.outline import OutlinedStage, outline
from pipeline.reporting.result_table import as_records
from pipeline.reporting.run_table import candidates_table, run_table, teacher_line
from pipeline.reporting.teacher_verdict import check_first, teacher_reports
from pipeline.store.checkpoints import CheckpointStore, open_store
from schemas.core.errors import TeacherError
from schemas.core.refs import FolderModel
from schemas.core.training import Selection
from schemas.recipe.expand import teacher_configs
from schemas.recipe.teacher import HELD_OUT, FineTune, FinetunedTeacher, StageModel
from schemas.results.manifest import Judgement, Row, RunReport, TeacherReport
from schemas.results.score import Score
from stages.judge import judge_model, make_yardstick
from tests.end_to_end.runs.by_hand import BAD, GOOD, RunByHand, recipe_of, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tried")


@pytest.fixture(scope="module")
def store(folder: Path) -> CheckpointStore:
    return open_store(folder / "store")


@pytest.fixture(scope="module")
def outlined(folder: Path, store: CheckpointStore) -> tuple[OutlinedStage, ...]:
    """The outline of a run in an empty store."""
    recipe = recipe_of(folder, BAD, GOOD)
    return outline(recipe, recipe.stages, store)


@pytest.fixture(scope="module")
def done(folder: Path, store: CheckpointStore, outlined: object) -> RunByHand:
    return run(recipe_of(folder, BAD, GOOD), store)


def test_the_best_candidate_is_the_teacher(done: RunByHand) -> None:
    chosen, loser = done.teachers
    assert (chosen.candidate, loser.candidate) == ("learning_rate 0.005", "learning_rate 1e-30")
    assert (chosen.chosen, loser.chosen) == (True, False)
    assert chosen.candidate_score == chosen.judgement.accuracy == 1.0
    assert loser.candidate_score == loser.judgement.accuracy == 0.5
    assert chosen.judgement.probe_accuracy is not None
    assert chosen.checkpoint is not None
    (teacher,) = done.runner.teachers.available.fine_tuned
    assert teacher.stage_digest == chosen.checkpoint.digest
    note = "teacher: the best of 2 is learning_rate 0.005 (accuracy 1.0000 on training rows held out)"
    assert note in done.notes
    assert done.runner.recipe.teacher.task_model.training.selection is None  # type: ignore[union-attr]


def test_every_candidate_is_a_separate_run_and_the_best_is_marked(done: RunByHand) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{done.runner.context.store.root}/mlflow.db")
    runs = [client.get_run(row.mlflow_run_id) for row in done.teachers]
    assert [run.info.run_name for run in runs] == ["teacher (learning_rate 0.005)", "teacher (learning_rate 1e-30)"]
    assert [run.data.tags[CANDIDATE_TAG] for run in runs] == [row.candidate for row in done.teachers]
    assert [run.data.tags.get(CHOSEN_TAG) for run in runs] == ["true", None]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "eval/probe_accuracy" in runs[0].data.metrics
    assert all("train/loss" in run.data.metrics for run in runs)


def test_the_students_digest_is_unknown_before_its_teacher_is_chosen(
    outlined: tuple[OutlinedStage, ...], done: RunByHand, folder: Path, store: CheckpointStore
) -> None:
    titles = [stage.title for stage in outlined]
    assert titles == ["teacher (learning_rate 1e-30)", "teacher (learning_rate 0.005)", "task_adaptive"]
    assert [stage.is_known for stage in outlined] == [True, True, False]
    assert outlined[-1].digest != done.results[-1].checkpoint.digest
    reason = difference_from_store(outlined[-1], store)
    assert reason == "unless the store has it for the teacher that is still to be chosen"
    recipe = recipe_of(folder, BAD, GOOD)
    known = outline(recipe, recipe.stages, store)[-1]
    assert known.is_known
    assert known.digest == done.results[-1].checkpoint.digest
    one_more = recipe_of(folder, BAD, GOOD, 1e-3)
    assert not outline(one_more, one_more.stages, store)[-1].is_known


def test_the_student_does_not_depend_on_the_rejected_candidates(
    done: RunByHand, folder: Path, store: CheckpointStore
) -> None:
    alone = recipe_of(folder, GOOD, selection=HELD_OUT.model_dump(mode="json"))
    single = outline(alone, alone.stages, store)
    assert [stage.title for stage in single] == ["teacher", "task_adaptive"]
    assert single[-1].digest == done.results[-1].checkpoint.digest
    again = run(recipe_of(folder, BAD, 1e-29, GOOD), store)
    assert [(row.candidate, row.status) for row in again.teachers] == [
        ("learning_rate 0.005", "reused"),
        ("learning_rate 1e-30", "reused"),
        ("learning_rate 1e-29", "ran"),
    ]
    assert again.results[-1].reused
    assert again.results[-1].checkpoint == done.results[-1].checkpoint


def test_the_candidates_are_compared_in_a_table(done: RunByHand) -> None:
    report = RunReport(
        run="r", recipe="toy", task="t", metric="accuracy", seconds=1.0, store="s", rows=tuple(done.runner.judge.rows)
    )
    names = [record["stage"] for record in as_records(run_table(report))]
    assert names[:2] == ["teacher (learning_rate 0.005)", "teacher (learning_rate 1e-30)"]
    assert [record["status"] for record in as_records(run_table(report))][:2] == ["chosen", ""]
    table = candidates_table(report)
    assert table is not None
    assert [row.cells[1] for row in table.rows] == ["1.0000", "0.5000"]
    assert table.columns[1].name == "chosen by accuracy"
    assert [row.cells[-1] for row in table.rows] == ["chosen", ""]
    plain = report.model_copy(update={"rows": report.rows[2:]})
    assert candidates_table(plain) is None


def test_ties_are_broken_by_the_order_of_candidates() -> None:
    assert best_of([0.5, 0.7, 0.7]) == 1
    assert best_of([0.7, 0.5, 0.7]) == 0


def test_the_score_on_held_out_rows_takes_precedence(folder: Path) -> None:
    (config, *_) = teacher_configs(recipe_of(folder, BAD, GOOD))
    metrics = {"eval/accuracy": 0.9, "select/best_accuracy": 0.8, "select/best_f1": 0.7}
    assert score_of(config, metrics) == 0.8
    for metric, expected in ((None, 0.8), ("f1", 0.7)):
        selection = Selection.model_validate({"rows": "held_out", "metric": metric})
        training = config.training.model_copy(update={"selection": selection})
        assert score_of(config.model_copy(update={"training": training}), metrics) == expected


def test_a_grid_is_the_product_of_its_values() -> None:
    tuned = FineTune.model_validate(
        {
            "training": {"duration": "1 epoch", "seed": 5},
            "seeds": 2,
            "grid": {"learning_rate": [1e-5, 2e-5], "batch": ["16 sequences", "512 tokens"], "dropout": [None, 0.2]},
        }
    )
    combinations = [
        (config.optimizer.learning_rate, str(config.batch), config.dropout, config.seed)
        for config in tuned.candidates()
    ]
    assert len(set(combinations)) == len(combinations) == 16
    assert combinations[:3] == [
        (1e-5, "16 sequences", None, 5),
        (1e-5, "16 sequences", None, 6),
        (1e-5, "16 sequences", 0.2, 5),
    ]
    assert {str(config.duration) for config in tuned.candidates()} == {"1 epochs"}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"grid": {"learning_rate": [1e-5, 1e-5]}}, "learning_rate: a value is listed twice"),
        ({"grid": {"weight_decay": [0.1]}}, "grid.weight_decay"),
        ({"grid": {"learning_rate": [0]}}, "greater than 0"),
        ({"seeds": 2, "grid": {"seed": [1, 2]}}, "leave one out"),
        ({"seeds": 30, "grid": {"learning_rate": [1e-5, 2e-5, 3e-5]}}, "it makes 90 fine-tunings"),
        ({"seeds": 0}, "greater than or equal to 1"),
    ],
)
def test_an_invalid_grid_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FineTune.model_validate({"training": {"duration": "1 epoch"}, **grid})


@pytest.fixture(scope="module")
def trained(done: RunByHand) -> Path:
    (teacher,) = done.runner.teachers.available.fine_tuned
    assert teacher.model == StageModel(stage="teacher")
    return done.runner.context.store.folder_of("teacher", str(teacher.stage_digest)) / "model"


def report_on(folder: Path, model: Path, words: float | None = None, *, minimum_gain: float = 0.05) -> TeacherReport:
    """Return the report on an existing teacher."""
    recipe = recipe_of(folder, GOOD)
    teacher = FinetunedTeacher(model=FolderModel(path=str(model)))
    yardstick = make_yardstick(recipe, teacher, folder / "store" / "cache")
    judgement = judge_model(yardstick.teacher, yardstick, has_head=True)
    row = Row(name="teacher", kind="teacher", status="given", judgement=judgement)
    bag = None if words is None else Judgement(scores={"accuracy": Score(value=words, low=0, high=1)})
    (report,) = teacher_reports([row], teacher, yardstick, bag, minimum_gain=minimum_gain)
    return report


def changed(model: Path, to: Path, change: Any, names: tuple[str, ...]) -> Path:
    """Save the model with a changed head and other output names."""
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    with torch.no_grad():
        change(loaded.classifier)
    loaded.config.id2label = dict(enumerate(names))
    loaded.config.label2id = {name: index for index, name in enumerate(names)}
    loaded.save_pretrained(to)
    AutoTokenizer.from_pretrained(model).save_pretrained(to)
    return to


def swap(head: torch.nn.Linear) -> None:
    head.weight.copy_(head.weight.flip(0).clone())
    head.bias.copy_(head.bias.flip(0).clone())


def silence(head: torch.nn.Linear) -> None:
    head.weight.zero_()
    head.bias.copy_(torch.tensor([1.0, 0.0]))


def test_a_teacher_that_knows_its_task_is_good(trained: Path, folder: Path) -> None:
    report = report_on(folder, trained, words=0.9)
    assert (report.verdict, report.label_order) == ("good", "same")
    assert (report.score.value, report.guess, report.margin) == (1.0, 0.5, 0.5)
    assert "50.0 points above" in report.reason
    check_first([report])
    assert teacher_line(report).startswith(
        "teacher: good: accuracy 100.0 % (95 % interval 100.0 to 100.0), guessing 50.0 %, bag of words 90.0 %; it is"
    )


def test_a_teacher_no_better_than_a_bag_of_words_is_weak(trained: Path, folder: Path) -> None:
    report = report_on(folder, trained, words=1.0)
    assert report.verdict == "weak"
    assert "a bag of words scores 100.0 %, no less" in report.reason
    check_first([report])


def test_outputs_are_put_in_order_by_name(trained: Path, folder: Path, tmp_path: Path) -> None:
    report = report_on(folder, changed(trained, tmp_path, swap, ("Good", "bad")))
    assert (report.verdict, report.label_order, report.score.value) == ("good", "reordered", 1.0)
    assert "reordered by name to match the task's labels" in teacher_line(report)


def test_unnamed_outputs_in_another_order_are_detected(trained: Path, folder: Path, tmp_path: Path) -> None:
    report = report_on(folder, changed(trained, tmp_path, swap, ("LABEL_0", "LABEL_1")))
    assert (report.verdict, report.label_order, report.score.value) == ("useless", "unnamed", 0.0)
    told = "the fine-tuned teacher scores 0.0 % .* read as good, bad they would score 100.0 %"
    with pytest.raises(TeacherError, match=told):
        check_first([report])


def test_a_teacher_with_constant_predictions_is_reported(trained: Path, folder: Path, tmp_path: Path) -> None:
    model = changed(trained, tmp_path, silence, ("bad", "good"))
    report = report_on(folder, model)
    assert report.verdict == "useless"
    with pytest.raises(TeacherError, match="it gives every row the same answer"):
        check_first([report])
    # With a minimum gain of 0 it is accepted, although its interval reaches below.
    report = report_on(folder, model, minimum_gain=0)
    assert report.verdict == "weak"
    assert "may lie below the 50.0 % that a teacher needs" in report.reason
    check_first([report])


def test_the_verdict_is_logged_before_the_student_is_trained(done: RunByHand) -> None:
    (report,) = done.runner.judge.teacher_reports
    assert (report.name, report.metric, report.verdict) == ("teacher", "accuracy", "weak")
    assert report.bag_of_words == 1.0, "one word decides the toy's label"
    assert teacher_line(report) in done.notes
    assert report.lacks[0].startswith("it is not clearly above a bag of words: +0.0 points (95 % interval +0.0 to +0.0")
    assert f"teacher could be better: {report.lacks[0]}" in done.notes


def test_no_verdict_is_given_without_scores(folder: Path, trained: Path) -> None:
    recipe = recipe_of(folder, GOOD)
    teacher = FinetunedTeacher(model=FolderModel(path=str(trained)))
    yardstick = make_yardstick(recipe, teacher, folder / "store" / "cache")
    row = Row(name="teacher", kind="teacher", status="given", judgement=Judgement())
    assert teacher_reports([row], teacher, yardstick, None, minimum_gain=0) == ()
    assert teacher_reports([row], None, yardstick, None, minimum_gain=0) == ()
    without = replace(yardstick, scorer=None)
    assert teacher_reports([row], teacher, without, None, minimum_gain=0) == ()
