"""`distill runs` and `distill compare A B` on the store of a finished run."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.runs.comparison import RunComparison, compare_runs
from pipeline.runs.comparison_table import print_comparison
from pipeline.runs.listing import list_runs, print_runs
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.open_runs import OpenRun, open_run
from schemas.core.errors import ConfigError, TeacherError
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import Row, RunReport
from stages.judge import make_yardstick
from stages.kinds.registry import kind_of
from tests.support.command_line import Distill, ToyRun

FIRST, SECOND = "toy-20260102-030405", "toy-20260102-040506"


@dataclass(frozen=True)
class TwoRuns:
    """A store with two runs: the toy run, and one whose student was trained on labels alone."""

    store: CheckpointStore
    first: RunReport
    second: RunReport

    def compared(self) -> RunComparison:
        return compare_runs(self.first, self.second, self.store)[0]


def row_of(report: RunReport, name: str) -> Row:
    return next(row for row in report.rows if row.name == name)


@pytest.fixture
def two(toy_run: ToyRun, tmp_path: Path) -> TwoRuns:
    root = tmp_path / "store"
    shutil.copytree(toy_run.store / "evaluations", root / "evaluations")
    store = CheckpointStore(root)
    report = toy_run.report.model_copy(update={"run": FIRST, "store": str(root)})
    # The student of the second run is a real other model, the baseline of the first.
    labels_only = row_of(report, "hard_label_baseline").model_copy(update={"name": "task_specific", "kind": "stage"})
    rows = tuple(labels_only if row.name == "task_specific" else row for row in report.rows)
    resolved = {**report.resolved, "teacher": {**report.resolved["teacher"], "minimum_gain": 0.0}}
    second = report.model_copy(update={"run": SECOND, "rows": rows, "resolved": resolved})
    return TwoRuns(store, store.write_report(report), store.write_report(second))


def test_the_interval_is_that_of_the_answers_to_the_same_rows(two: TwoRuns, toy_run: ToyRun) -> None:
    student = two.compared().student
    assert student is not None
    scorer = make_yardstick(Recipe.model_validate(toy_run.report.resolved), None, toy_run.store / "cache").scorer
    assert scorer is not None
    head = kind_of(scorer.rows.task.problem).head
    answers = []
    for report in (two.second, two.first):
        checkpoint = row_of(report, "task_specific").checkpoint
        assert checkpoint is not None
        answers.append(scorer.answers_of(head.load(Path(checkpoint.path) / "model")))
    expected = scorer.difference("accuracy", *answers)
    assert student.basis == "paired"
    assert not np.array_equal(*answers)
    assert (student.difference, student.low, student.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=2e-6
    )


def test_every_stage_is_compared_and_only_what_differs_is_listed(two: TwoRuns) -> None:
    comparison = two.compared()
    assert [(setting.key, setting.second) for setting in comparison.settings] == [("teacher.minimum_gain", "0.0")]
    by_stage = {(score.stage, score.measure): score.basis for score in comparison.scores}
    assert by_stage["general", "probe"] == "same model"
    assert by_stage["task_specific", "probe"] == "paired"
    assert [row.name for row in two.first.rows] == list(dict.fromkeys(stage for stage, _ in by_stage))


def test_other_rows_have_an_interval_that_is_not_paired_and_the_reason(two: TwoRuns) -> None:
    kept = row_of(two.second, "task_specific").judgement.kept
    assert kept is not None
    judgement = two.store.read_judgement(kept)
    assert judgement is not None
    assert judgement.draws is not None
    paired = two.compared().student
    changed = judgement.draws.model_copy(update={"rows": "0" * 64})
    two.store.write_judgement(kept, judgement.model_copy(update={"draws": changed}))
    other = two.compared()
    assert other.student is not None
    assert paired is not None
    assert (other.student.basis, other.student.difference) == ("unpaired", paired.difference)
    assert other.why_unpaired is not None
    assert "other validation rows" in other.why_unpaired
    (two.store.root / "evaluations" / f"{kept}.json").unlink()
    assert "did not keep what both answered" in (two.compared().why_unpaired or "")


def test_two_runs_on_a_terminal_of_80_columns_and_as_json(two: TwoRuns, distill: Distill) -> None:
    store = ("--store", two.store.root)
    code, out, err = distill("compare", FIRST, SECOND, *store)
    assert code == 0, err
    for words in ("setting that differs", "teacher.minimum_gain", "same model", "points of accuracy"):
        assert words in out
    console = Console(width=80, file=io.StringIO(), record=True)
    print_comparison(two.compared(), console)
    shown = console.export_text()
    assert FIRST in shown
    assert "…" not in shown
    code, out, _ = distill("compare", FIRST, SECOND, *store, "--json")
    assert RunComparison.model_validate(json.loads(out)[0]) == two.compared()
    assert "end with the same student" in distill("compare", FIRST, FIRST, *store)[1]


def test_runs_that_cannot_be_compared_are_refused_with_a_remedy(two: TwoRuns, distill: Distill) -> None:
    store = ("--store", two.store.root)
    message = distill.refused("compare", FIRST, SECOND.replace("0506", "0507"), *store)
    assert f"did you mean {SECOND}?" in message
    assert "give one, or two" in distill.refused("compare", FIRST, SECOND, FIRST, *store)
    other = two.second.model_copy(update={"task": "mrpc"})
    with pytest.raises(ConfigError, match="is about mrpc, by accuracy: their scores do not compare"):
        compare_runs(two.first, other, two.store)


def fail(run: OpenRun) -> None:
    run.needs({"0" * 64})
    raise TeacherError("the teacher guesses")


def test_runs_are_listed_with_their_scores_in_every_state(two: TwoRuns, distill: Distill) -> None:
    damaged = two.store.root / "runs" / "toy-20260101-000000.json"
    damaged.write_text("{", encoding="utf-8")
    with open_run(two.store.root, "films") as running:
        running.needs({"0" * 64})
        states = {run.name: run.state for run in list_runs(two.store)}
        films = next(run for run in list_runs(two.store) if run.recipe == "films")
        assert films.state == "running"
    with pytest.raises(TeacherError), open_run(two.store.root, "songs") as failed:
        fail(failed)
    assert [states[FIRST], states[SECOND], states[damaged.stem]] == ["finished", "finished", "damaged"]
    code, out, err = distill("runs", "--store", two.store.root)
    assert code == 0, err
    assert f"distill compare {FIRST} {SECOND}" in out or f"distill compare {SECOND} {FIRST}" in out
    console = Console(width=80, file=io.StringIO(), record=True)
    print_runs(list_runs(two.store), console)
    shown = console.export_text()
    assert SECOND in shown
    assert re.search(r"songs-\d{8}-\d{6} failed: the teacher guesses\n", shown)
    document = {run["name"]: run for run in json.loads(distill("runs", "--store", two.store.root, "--json")[1])}
    student = row_of(two.first, "task_specific").judgement.task_metric
    assert document[FIRST]["score"] == student
    assert (document[FIRST]["task"], document[FIRST]["metric"]) == (two.first.task, "accuracy")
    assert "no runs in" in distill("runs", "--store", two.store.root.parent / "none")[1]
