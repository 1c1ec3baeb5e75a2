"""The closing table: its numbers as a person reads them, and the interval beside the score."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
from rich.console import Console

from pipeline import stage_picture
from pipeline.report import (
    amount,
    as_markdown,
    as_records,
    as_table,
    duration,
    overlay_link,
    percent,
    summary,
    teacher_row,
)
from pipeline.stage_picture import stage_comparison, task_comparison
from schemas.comparison import TasksReport
from schemas.results import Judgement, Row, RunReport, Score, Size


@pytest.fixture
def report() -> RunReport:
    def row(name: str, kind: str, accuracy: float | None, probe: float) -> Row:
        scores = Judgement(probe_accuracy=probe, accuracy=accuracy, task_metric=accuracy)
        if accuracy is not None:
            found = {"accuracy": Score(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02)}
            scores = scores.model_copy(
                update={
                    "scores": found,
                    "minus_teacher": Score(value=accuracy - 0.9, low=-0.031, high=0.004),
                    "unseen_scores": found,
                    "unseen_rows": 870,
                    "further": {"forum": found},
                }
            )
        return Row.model_validate(
            {
                "name": name,
                "kind": kind,
                "status": "ran",
                "judgement": scores,
                "tokens": 2_500_000,
                "seconds": 75.0,
            }
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
    assert [amount(None), amount(950), amount(300_000), amount(2_500_000)] == [
        "–",
        "950",
        "300 k",
        "2.50 M",
    ]
    assert [duration(None), duration(12.4), duration(186), duration(7920)] == [
        "–",
        "12 s",
        "3.1 min",
        "2.2 h",
    ]


def test_the_table_fits_eighty_columns_and_keeps_every_number(report: RunReport) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(as_table(report))
    text = console.export_text()
    console.file.close()
    assert "…" not in text
    for part in ("hard labels only", "88.2", "2.50 M", "75 s"):
        assert part in text


def test_the_closing_lines_say_what_was_kept_and_at_what_size(report: RunReport) -> None:
    lines = "\n".join(summary(report))
    assert "student 88.2 %, teacher 90.0 %: 98.0 % retained; above chance (50.9 %): 95.4 %" in lines
    apart = "student minus teacher: -1.8 points (95 % interval -3.1 to +0.4, on the same rows)"
    assert apart in lines
    assert "task_specific: accuracy 88.2 % (86.2 to 90.2) (872 rows, 95 % intervals)" in lines
    assert "task_specific, the 870 rows not in train: accuracy 88.2 % (86.2 to 90.2)" in lines
    assert "task_specific, forum: accuracy 88.2 % (86.2 to 90.2)" in lines
    assert "student 14.35 M, teacher 22.71 M" in lines
    assert "62.1 min" in lines


def test_markdown_and_records_hold_the_same_rows(report: RunReport) -> None:
    markdown = as_markdown(report)
    for record in as_records(report):
        assert f"| {record['stage']} | {record['probe']} |" in markdown


def test_the_link_into_mlflow_names_every_stage(report: RunReport) -> None:
    assert overlay_link(report, "http://127.0.0.1:5000") is None
    rows = [
        row.model_copy(update={"mlflow_run_id": f"run{index}"})
        for index, row in enumerate(report.rows)
    ]
    logged = report.model_copy(update={"rows": tuple(rows), "mlflow_experiment_id": "1"})
    link = overlay_link(logged, "http://127.0.0.1:5000/")
    assert link is not None
    assert link.startswith("http://127.0.0.1:5000/#/metric?")
    query = parse_qs(link.partition("?")[2])
    assert query["runs"] == ['["run1", "run2"]']
    assert query["experiments"] == ['["1"]']


def test_the_picture_has_a_panel_of_the_models_that_have_its_number(
    report: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(stage_picture, "as_png", lambda figure: drawn.append(figure) or b"")
    values = {"probe_accuracy": None, "probe_score": 0.4, "latent_loss": 2.0}
    rows = [report.rows[0], report.rows[1].model_copy(), report.rows[2]]
    rows[1] = rows[1].model_copy(update={"judgement": Judgement.model_validate(values)})
    for some in (report.rows, rows, rows[1:2], ()):
        stage_comparison(report.model_copy(update={"rows": tuple(some)}))
    panels = [
        {
            axes.get_title(loc="left"): [t.get_text() for t in axes.get_xticklabels()]
            for axes in figure.axes
        }
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


def test_of_teachers_that_were_tried_the_chosen_one_is_the_teacher(report: RunReport) -> None:
    lost = report.rows[0].model_copy(update={"chosen": False, "candidate": "seed 1"})
    both = report.model_copy(update={"rows": (lost, *report.rows)})
    assert teacher_row(both) == report.rows[0]


def test_every_finished_task_has_a_panel_of_its_scores(
    report: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(stage_picture, "as_png", lambda figure: drawn.append(figure) or b"")
    general = report.model_copy(update={"rows": report.rows[1:2]})
    names = ["a", "b", "c", "d", "e"]
    both = TasksReport.model_validate(
        {"run": "r", "recipe": "toy", "tasks": dict.fromkeys(names, report) | {"unscored": general},
         "shared": (), "failed": {"lost": "no rows"}, "averages": {}, "seconds": 1.0, "store": "s"}
    )  # fmt: skip
    task_comparison(both)
    task_comparison(both.model_copy(update={"tasks": {}}))
    shown = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [
        f"{name}, accuracy %" for name in names
    ]
    assert not [axes for axes in drawn[1].axes if axes.get_visible()]
