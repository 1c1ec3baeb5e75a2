"""The closing table: rounded numbers, and the interval of each score."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from rich.console import Console

from pipeline.execution.run_report import retained_shares
from pipeline.reporting import score_figures as stage_picture
from pipeline.reporting.result_table import as_markdown, as_records, as_terminal
from pipeline.reporting.run_table import (
    amount,
    comparison_link,
    duration,
    percent,
    rows_of,
    run_table,
    score_tags,
    summary,
    teacher_row,
)
from pipeline.reporting.score_figures import stage_comparison, task_comparison
from schemas.results.manifest import Judgement, Row, RunReport, Size
from schemas.results.report import GroupReport
from schemas.results.score import Score
from stages.scores.metrics import why_no_correlation


@pytest.fixture
def report() -> RunReport:
    def row(name: str, kind: str, accuracy: float | None, probe: float) -> Row:
        scores = Judgement(probe_accuracy=probe, accuracy=accuracy, task_metric=accuracy)
        if accuracy is not None:
            judged_scores = {"accuracy": Score(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02)}
            scores = scores.model_copy(
                update={
                    "scores": judged_scores,
                    "minus_teacher": Score(value=accuracy - 0.9, low=-0.031, high=0.004),
                    "unseen_scores": judged_scores,
                    "unseen_rows": 870,
                    "further": {"forum": judged_scores},
                }
            )
        return Row.model_validate(
            {"name": name, "kind": kind, "status": "ran", "judgement": scores, "tokens": 2_500_000, "seconds": 75.0}
        )

    return RunReport(
        run="toy-1",
        recipe="toy",
        task="glue/sst2",
        metric="accuracy",
        rows=(
            row("teacher", "teacher", 0.9, 0.88),
            row("general", "stage", None, 0.7),
            row("task_specific", "stage", 0.882, 0.87),
            row("hard_label_baseline", "baseline", 0.81, 0.8),
        ),
        validation_rows=872,
        majority=0.509,
        retained=0.98,
        retained_above_chance=0.954,
        minus_control=Score(value=0.072, low=0.044, high=0.101),
        size=Size(
            student_parameters=14_350_248,
            teacher_parameters=22_713_216,
            student_flops=1_247_280_000,
            teacher_flops=2_870_000_000,
        ),
        seconds=3725.0,
        store="store",
    )


def test_numbers_are_rounded_for_reading() -> None:
    assert [percent(None), percent(0.87654)] == ["–", "87.7"]
    assert [amount(None), amount(950), amount(300_000), amount(2_500_000)] == ["–", "950", "300 k", "2.50 M"]
    assert [duration(None), duration(12.4), duration(186), duration(7920)] == ["–", "12 s", "3.1 min", "2.2 h"]


def test_the_table_fits_eighty_columns_and_keeps_every_number(report: RunReport) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(as_terminal(run_table(report, with_candidates=False)))
    text = console.export_text()
    console.file.close()
    assert "…" not in text
    for part in ("hard labels only", "88.2", "2.50 M", "75 s"):
        assert part in text


def test_the_closing_lines_report_retention_scores_and_size(report: RunReport) -> None:
    lines = "\n".join(summary(report))
    assert "student 88.2 %, teacher 90.0 %: 98.0 % retained; above chance (50.9 %): 95.4 %" in lines
    apart = "student minus teacher: -1.8 points (95 % interval -3.1 to +0.4, on the same rows)"
    assert apart in lines
    assert "student minus hard labels only: +7.2 points (95 % interval +4.4 to +10.1, on the same rows)" in lines
    assert "task_specific: accuracy 88.2 % (86.2 to 90.2) (872 rows, 95 % intervals)" in lines
    assert "task_specific, the 870 rows not in train: accuracy 88.2 % (86.2 to 90.2)" in lines
    assert "task_specific, forum: accuracy 88.2 % (86.2 to 90.2)" in lines
    assert "student 14.35 M, teacher 22.71 M" in lines
    assert "62.1 min" in lines


def test_markdown_and_records_hold_the_same_rows(report: RunReport) -> None:
    markdown = as_markdown(run_table(report))
    for record in as_records(run_table(report)):
        assert f"| {record['stage']} | {record['probe']} |" in markdown


def test_the_link_into_mlflow_opens_the_saved_view_or_the_probes_of_an_older_run(report: RunReport) -> None:
    assert comparison_link(report, "http://127.0.0.1:5000") is None
    rows = [row.model_copy(update={"mlflow_run_id": f"run{index}"}) for index, row in enumerate(report.rows)]
    logged = report.model_copy(update={"rows": tuple(rows), "mlflow_experiment_id": "1"})
    link = comparison_link(logged, "http://127.0.0.1:5000/")
    assert link is not None
    assert link.startswith("http://127.0.0.1:5000/#/metric?")
    query = parse_qs(link.partition("?")[2])
    assert query["runs"] == ['["run1", "run2"]']
    assert query["experiments"] == ['["1"]']
    assert query["metric"] == ['"eval/probe_accuracy"']
    viewed = logged.model_copy(update={"mlflow_view": True, "mlflow_run_id": "run0"})
    link = comparison_link(viewed, "http://127.0.0.1:5000/")
    assert link is not None
    assert link.startswith("http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=run0&compareRunsMode=CHART")


def test_each_panel_shows_the_models_that_have_its_value(report: RunReport, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(stage_picture, "as_png", lambda figure: drawn.append(figure) or b"")
    values = {"probe_accuracy": None, "probe_score": 0.4, "latent_loss": 2.0}
    rows = [report.rows[0], report.rows[1].model_copy(), report.rows[2]]
    rows[1] = rows[1].model_copy(update={"judgement": Judgement.model_validate(values)})
    for some in (report.rows, rows, rows[1:2], ()):
        stage_comparison(report.model_copy(update={"rows": tuple(some)}))
    panels = [
        {axes.get_title(loc="left"): [t.get_text() for t in axes.get_xticklabels()] for axes in figure.axes}
        for figure in drawn
    ]
    heads = ["teacher", "task\nspecific"]
    assert panels[0] == {
        "linear probe, accuracy %": ["general", "task\nspecific", "hard\nlabels\nonly"],
        "own head, accuracy %, 95 % interval": [*heads, "hard\nlabels\nonly"],
    }
    assert panels[1]["latent loss, held-out text"] == ["general"]
    assert panels[1]["own head, accuracy %, 95 % interval"] == heads
    assert list(panels[2]) == ["linear probe, accuracy %", "latent loss, held-out text"]
    assert panels[3] == {}


def test_the_chosen_candidate_is_the_teacher(report: RunReport) -> None:
    lost = report.rows[0].model_copy(update={"chosen": False, "candidate": "seed 1"})
    both = report.model_copy(update={"rows": (lost, *report.rows)})
    assert teacher_row(both) == report.rows[0]


def test_every_finished_task_has_a_panel_of_its_scores(report: RunReport, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(stage_picture, "as_png", lambda figure: drawn.append(figure) or b"")
    general = report.model_copy(update={"rows": report.rows[1:2]})
    names = ["a", "b", "c", "d", "e"]
    both = GroupReport.model_validate(
        {
            "run": "r",
            "recipe": "toy",
            "tasks": dict.fromkeys(names, report) | {"unscored": general},
            "shared": (),
            "failed": {"lost": "no rows"},
            "averages": {},
            "seconds": 1.0,
            "store": "s",
        }
    )
    task_comparison(both)
    task_comparison(both.model_copy(update={"tasks": {}}))
    shown = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [f"{name}, accuracy %" for name in names]
    assert not [axes for axes in drawn[1].axes if axes.get_visible()]


def imbalanced(report: RunReport) -> RunReport:
    """The report of a task whose F1 is that of one class, scored on a part of its rows."""

    def of_fraud(row: Row, value: float) -> Row:
        scores = {
            "f1": Score(value=value, low=value - 0.1, high=value + 0.1, of="fraud"),
            "accuracy": Score(value=0.95, low=0.94, high=0.96),
        }
        update = {"scores": scores, "task_metric": value, "agreement": 0.99, "agreement_guessed": 0.97}
        judgement = row.judgement.model_copy(update=update | {"further": {"forum": scores}})
        return row.model_copy(update={"judgement": judgement})

    rows = [of_fraud(report.rows[0], 0.6), of_fraud(report.rows[2], 0.5)]
    return report.model_copy(
        update={
            "metric": "f1",
            "positive_label": "fraud",
            "rows": tuple(rows),
            "majority": 0.1,
            "validation_rows": 2000,
            "validation_rows_of": 9815,
            "further_rows": {"forum": (2000, 9832)},
            "guessed": {"f1": 0.1, "accuracy": 0.93},
            "retained": 0.5 / 0.6,
            "retained_above_chance": 0.8,
            "gains_retained": {"f1": 0.8, "accuracy": 1.0},
        }
    )


def test_every_score_names_its_class_and_its_subset_of_rows(report: RunReport, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = imbalanced(report)
    console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(as_terminal(run_table(judged, with_candidates=False)))
    shown = console.export_text()
    console.file.close()
    assert "toy on glue/sst2, 2,000 of 9,815 rows" in shown
    assert "f1 of fraud %" in shown
    lines = summary(judged)
    assert "f1 of fraud: student 50.0 %, teacher 60.0 %: 83.3 % retained; above chance (10.0 %): 80.0 %" in lines
    assert "guessing (best constant prediction): f1 of fraud 10.0 %, accuracy 93.0 %" in lines
    assert "retained above guessing by further scores: accuracy 100.0 %" in lines
    assert "student agrees with teacher: 99.0 % (the best constant prediction: 97.0 %)" in lines
    scored = "f1 of fraud 50.0 % (40.0 to 60.0), accuracy 95.0 % (94.0 to 96.0)"
    assert f"task_specific: {scored} (2,000 of 9,815 rows, 95 % intervals)" in lines
    assert f"task_specific, forum: {scored} (2,000 of 9,832 rows)" in lines
    assert "| f1 of fraud |" in as_markdown(run_table(judged))
    assert as_records(run_table(judged))[0]["f1 of fraud"] == "60.0"
    drawn: list[Any] = []
    monkeypatch.setattr(stage_picture, "as_png", lambda figure: drawn.append(figure) or b"")
    stage_comparison(judged)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert "own head, f1 of fraud %, 95 % interval" in titles
    assert score_tags("fraud", rows_of(2000, 9815)) == {
        "distill.f1_of": "fraud",
        "distill.validation_rows": "2,000 of 9,815 rows",
    }


def test_names_with_dollars_are_not_drawn_as_formulas(report: RunReport) -> None:
    judged = imbalanced(report).model_copy(update={"task": "q$usd_$x", "positive_label": "$a_$"})
    assert stage_comparison(judged).startswith(b"\x89PNG")


def test_retention_is_undefined_for_a_teacher_no_better_than_the_baseline(report: RunReport) -> None:
    judged = imbalanced(report).model_copy(update={"retained_above_chance": None})
    assert any("above chance (10.0 %): the teacher is not above it" in line for line in summary(judged))


def test_retained_gain_over_the_baseline_is_computed_for_every_score(report: RunReport) -> None:
    shares = retained_shares(imbalanced(report))
    assert shares["retained"] == pytest.approx(0.5 / 0.6)
    assert shares["gains_retained"] == {"f1": pytest.approx(0.8), "accuracy": pytest.approx(1.0)}
    assert shares["retained_above_chance"] == shares["gains_retained"]["f1"]
    lucky = imbalanced(report).model_copy(update={"guessed": {"f1": 0.6, "accuracy": 0.93}})
    assert retained_shares(lucky)["retained_above_chance"] is None
    assert set(retained_shares(lucky)["gains_retained"]) == {"accuracy"}


def test_a_meaningless_score_is_reported_with_the_reason(report: RunReport) -> None:
    labels = np.linspace(0, 5, 40)
    answers = np.float32(0.07275935) + np.float32(2e-7) * (labels > 3)
    note = why_no_correlation("pearson", labels, answers)
    assert note == "all answers are 0.07276 but for rounding, and no correlation with them means anything"
    scores = {name: Score(value=0, low=0, high=0, note=note) for name in ("pearson", "spearman")}
    last = report.rows[2]
    changed = last.model_copy(update={"judgement": last.judgement.model_copy(update={"scores": scores})})
    rows = tuple(changed if row is last else row for row in report.rows)
    lines = summary(report.model_copy(update={"rows": rows}))
    (told,) = [line for line in lines if "but for rounding" in line]
    assert told.count(note) == 1, "once for all of a model's scores"
    assert why_no_correlation("pearson", labels, labels[::-1]) is None
    assert why_no_correlation("accuracy", labels, answers) is None
    assert why_no_correlation("pearson", labels, np.full(40, np.nan)) == "not all answers are finite numbers"
    assert "labels are all the same" in str(why_no_correlation("spearman", np.ones(40), labels))
