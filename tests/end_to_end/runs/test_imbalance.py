"""A task with one row of fraud in thirty, from its teacher to its report: it completes, and no score is flattering."""

from __future__ import annotations

import random
import re
from contextlib import closing
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from pipeline.evaluate import evaluate_checkpoint, print_scores
from pipeline.execution import stage_runner
from pipeline.execution.run_context import RunContext
from pipeline.execution.run_report import make_report
from pipeline.execution.stage_runner import StageRunner
from pipeline.process.stopping import Stop
from pipeline.reporting.result_table import as_markdown
from pipeline.reporting.run_table import run_table, summary
from pipeline.store.checkpoints import open_store
from pipeline.store.open_runs import open_run
from pipeline.tracking.session import Tracking
from schemas.recipe.expand import stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import RunReport
from stages.judge import judge_bag_of_words
from stages.ports.plain import SilentProgress
from stages.preflight.checks import preflight
from tests.support.builders import WORDS
from tests.support.toys import BAD, GOOD, toy_recipe_dict, write_rows

EVERY = 30


def one_in_thirty(number: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    filler = [word for word in WORDS if word not in GOOD + BAD]
    rows = []
    for row in range(number):
        label = "fraud" if row % EVERY == 0 else "legit"
        words = draw.choices(filler, k=draw.randint(2, 12))
        told = draw.choice(BAD if label == "fraud" else GOOD)
        words.insert(draw.randrange(len(words) + 1), told)
        rows.append({"text_a": " ".join(words), "label": label})
    return rows


@dataclass
class Done:
    """A run like that of the flow, but without Prefect."""

    runner: StageRunner
    report: RunReport
    task: Path
    store: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("imbalance")
    content = toy_recipe_dict(folder / "in")
    task = folder / "in" / "task"
    write_rows(task / "train.jsonl", one_in_thirty(900, seed=1))
    write_rows(task / "validation.jsonl", one_in_thirty(300, seed=2))
    content["task"]["metric"] = "f1"
    # The first eighty of a draw without classes have no fraud at all.
    content["evaluation"] |= {"probe_train_rows": 80, "max_rows": 90}
    training = content["teacher"]["task_model"]["training"]
    training |= {"duration": "240 steps", "selection": {"every": "60 steps", "rows": "held_out"}}
    content["stages"] = content["stages"][-1:]
    content["baselines"] = ["bag_of_words"]
    del content["general_corpus"]
    content["execution"] = {"log_every": 50}
    recipe = Recipe.model_validate(content)
    store = open_store(folder / "store")
    facts = preflight(recipe, store.cache)
    tracking = Tracking(f"sqlite:///{store.root}/mlflow.db", "toys", store.points)
    parent = tracking.start_run("toy", {}, {})
    with open_run(store.root, recipe.name) as record, closing(tracking), parent:
        runner = StageRunner(
            recipe, RunContext(store, tracking, SilentProgress(), Stop(), record, exports=False), parent
        )
        for config in teacher_configs(recipe):
            runner(config, None)
        runner.judge.check_teachers()
        runner(stage_config(recipe, recipe.stages[0], runner.teachers.available), None)
        runner.judge.add_bag_of_words()
        report = make_report(runner, "toy-1", facts)
    return Done(runner, report, task, store.root)


def test_the_teacher_is_compared_with_the_baseline_by_the_tasks_metric(done: Done) -> None:
    (teacher,) = done.report.teachers
    # 3 of 90 rows drawn by class are fraud: always "fraud" has F1 = 2 * 3 / (3 + 90).
    assert teacher.metric == "f1"
    assert teacher.score.of == "fraud"
    assert teacher.guess == done.report.majority == pytest.approx(6 / 93)
    assert teacher.verdict in ("good", "weak")
    assert done.report.guessed["accuracy"] == pytest.approx(87 / 90)


def test_weights_are_selected_by_the_named_class(done: Done) -> None:
    assert isinstance(done.runner.context.progress, SilentProgress)
    notes = "\n".join(done.runner.context.progress.notes)
    best = re.search(r"with the best f1 of fraud of ([0-9.]+)", notes)
    assert best is not None
    assert 0.5 < float(best[1]) <= 1
    assert "teacher: good: f1 of fraud" in notes or "teacher: weak: f1 of fraud" in notes


def test_every_score_is_shown_with_its_class_and_the_baseline(done: Done) -> None:
    assert (done.report.validation_rows, done.report.validation_rows_of) == (90, 300)
    lines = "\n".join(summary(done.report))
    assert "f1 of fraud: student" in lines
    assert "above chance (6.5 %)" in lines
    assert "(90 of 300 rows, 95 % intervals)" in lines
    assert "| f1 of fraud |" in as_markdown(run_table(done.report))
    assert all(row.judgement.probe_accuracy is not None for row in done.report.rows[:2])


def test_mlflow_names_the_class_of_f1(done: Done) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{done.store}/mlflow.db")
    for row in done.report.rows[:2]:
        data = client.get_run(row.mlflow_run_id or "").data
        assert data.tags["distill.f1_of"] == "fraud"
        assert data.tags["distill.validation_rows"] == "90 of 300 rows"
        assert data.metrics["eval/f1"] == row.judgement.task_metric


def test_a_bag_of_words_is_scored_on_the_same_class(done: Done) -> None:
    from stages.evaluation.baselines import bag_of_words

    scorer = done.runner.judge.yardstick.scorer
    assert scorer is not None
    names = [scorer.rows.task.labels[index] for index in scorer.kind.labels(scorer.rows)]
    predicted = [scorer.rows.task.labels[index] for index in bag_of_words(scorer)]
    expected = f1_score(names, predicted, pos_label="fraud", zero_division=0.0)
    assert judge_bag_of_words(done.runner.judge.yardstick).task_metric == pytest.approx(expected)


def test_other_rows_are_scored_on_the_class_of_training(done: Done, tmp_path: Path) -> None:
    student = done.report.rows[1].checkpoint
    assert student is not None
    # Neither class is rare in these rows; in the toy's own rows fraud was.
    rows = [row | {"label": ("legit", "fraud")[at % 2]} for at, row in enumerate(one_in_thirty(40, 3))]
    for name in ("train", "validation"):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    scores = evaluate_checkpoint(Path(student.path), str(tmp_path), done.store)
    assert scores.positive_label == "fraud"
    assert scores.models[0].scores["f1"].of == "fraud"


def test_evaluate_names_the_class_and_the_baseline(done: Done) -> None:
    student = done.report.rows[1].checkpoint
    assert student is not None
    scores = evaluate_checkpoint(Path(student.path), str(done.task), done.store)
    assert (scores.metric, scores.positive_label, scores.rows) == ("f1", "fraud", 300)
    assert scores.guessed == pytest.approx(20 / 310)
    assert scores.guesses["accuracy"] == pytest.approx(290 / 300)
    console = Console(width=160, file=StringIO())
    print_scores(scores, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "f1 of fraud %" in shown
    assert "96.7" in next(line for line in shown.splitlines() if "guessing" in line)


def test_a_run_keeps_its_report_when_a_library_fails_at_the_closing_table(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(done.runner.context.progress, "note", notes.append)
    shipping = done.runner._ship(done.report, exported=False)
    assert shipping is not None
    assert [form.name for form in shipping.forms] == ["teacher", "student"]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(stage_runner, "shipped_by", fail)
    assert done.runner._ship(done.report, exported=False) is None
    assert notes == ["what you ship was not measured: no kernel"]
