"""The table that compares several tasks: cells, averages, and failed tasks."""

from __future__ import annotations

from io import StringIO
from urllib.parse import parse_qs

import pytest
from rich.console import Console

from pipeline.reporting.result_table import as_markdown, as_records, as_terminal
from pipeline.reporting.tasks_table import (
    COLUMNS,
    averages,
    averages_of,
    comparison_link,
    summary,
    tasks_table,
)
from schemas.results.manifest import CheckpointRef, Judgement, Row, RunReport
from schemas.results.report import GroupReport
from schemas.results.score import Score


def row(name: str, kind: str, metric: str, value: float | None) -> Row:
    scores = {} if value is None else {metric: Score(value=value, low=value - 0.02, high=value + 0.01)}
    return Row.model_validate(
        {
            "name": name,
            "kind": kind,
            "status": "ran",
            "judgement": Judgement(probe_accuracy=0.7, task_metric=value, scores=scores),
            "seconds": 75.0,
            "checkpoint": CheckpointRef(path=f"/c/{name}", stage="general", digest="0" * 64),
            "mlflow_run_id": f"{name}-{metric}",
        }
    )


def report(task: str, metric: str, student: float | None, teacher: float = 0.8) -> RunReport:
    return RunReport(
        run=f"toy-1-{task}",
        recipe="toy",
        task=f"glue/{task}",
        metric=metric,
        rows=(
            row("teacher", "teacher", metric, teacher),
            row("general", "stage", metric, None),
            row("task_specific", "stage", metric, student),
            row("bag_of_words", "baseline", metric, 0.5),
        ),
        retained=None if student is None else student / teacher,
        majority=0.509,
        retained_above_chance=None if student is None else (student - 0.509) / (teacher - 0.509),
        positive_label={"mrpc": "equivalent", "qqp": "duplicate"}.get(task),
        seconds=150.0,
        mlflow_experiment_id="1",
        store="/store",
    )


def compared(tasks: dict[str, RunReport], failed: dict[str, str] | None = None) -> GroupReport:
    return GroupReport(
        run="toy-1",
        recipe="toy",
        shared=(row("general", "stage", "accuracy", None),),
        tasks=tasks,
        failed=failed or {},
        averages={} if failed else averages_of(tasks),
        seconds=400.0,
        mlflow_experiment_id="1",
        store="/store",
    )


TASKS = {"sst2": report("sst2", "accuracy", 0.76), "cola": report("cola", "matthews", 0.4)}


def test_the_table_has_a_row_per_task_and_the_mean_of_their_main_scores() -> None:
    first, second, mean = as_records(tasks_table(compared(TASKS)))
    assert list(first) == [column.name for column in COLUMNS]
    assert list(first.values()) == [
        "sst2",
        "accuracy",
        "80.0",
        "76.0",
        "95.0",
        "50.9",
        "86.3",
        "74.0 to 77.0",
        "–",
        "50.0",
        "2.5 min",
    ]
    assert (second["task"], second["metric"], second["student %"]) == ("cola", "matthews", "40.0")
    assert (mean["task"], mean["teacher %"], mean["student %"]) == ("mean", "80.0", "58.0")
    assert mean["bag of words %"] == "50.0"


def test_a_failed_task_has_a_row_and_a_reason_and_prevents_averages() -> None:
    with_failed = compared(TASKS, {"rte": "no file\nof rows"})
    assert [line["task"] for line in as_records(tasks_table(with_failed))] == ["sst2", "cola", "rte"]
    assert as_records(tasks_table(with_failed))[-1]["metric"] == "failed"
    assert "rte failed: no file of rows" in summary(with_failed)


def test_the_probe_is_compared_before_a_head_is_trained() -> None:
    (line, *_) = as_records(tasks_table(compared({"sst2": report("sst2", "accuracy", None)})))
    assert (line["metric"], line["teacher %"], line["student %"]) == ("probe", "70.0", "70.0")
    assert (line["retained %"], line["95 % interval"]) == ("–", "–")
    assert averages_of({**TASKS, "rte": report("rte", "accuracy", None)}) == {}


def test_published_averages_require_all_their_columns() -> None:
    scores = {
        "mnli": {"accuracy": 0.8},
        "qnli": {"accuracy": 0.9},
        "qqp": {"accuracy": 0.7, "f1": 0.1},
        "sst2": {"accuracy": 0.95},
        "cola": {"matthews": 0.5},
        "mrpc": {"accuracy": 0.85, "f1": 0.2},
        "rte": {"accuracy": 0.6},
    }
    main = {task: next(iter(names)) for task, names in scores.items()}
    published = averages(scores, main)
    seven = (0.8 + 0.9 + 0.7 + 0.95 + 0.5 + 0.85 + 0.6) / 7
    assert published == {"mean": pytest.approx(seven), "autodistil_seven": pytest.approx(seven)}
    assert averages(scores, {**main, "wnli": "accuracy"}) == {"autodistil_seven": pytest.approx(seven)}


def test_further_validation_rows_count_as_a_separate_column() -> None:
    mnli = report("mnli", "accuracy", 0.8)
    mismatched = {"mnli_mismatched": {"accuracy": Score(value=0.7, low=0.6, high=0.8)}}
    names = ("qqp", "qnli", "sst2", "stsb", "mrpc", "rte")
    metrics = {"qqp": "f1", "stsb": "spearman", "mrpc": "f1"}
    tasks = {name: report(name, metrics.get(name, "accuracy"), 0.8) for name in names}
    tasks |= {"cola": report("cola", "matthews", 0.8), "mnli": mnli}
    assert set(averages_of(tasks)) == {"mean"}
    rows = tuple(
        row.model_copy(update={"judgement": row.judgement.model_copy(update={"further": mismatched})})
        for row in mnli.rows
    )
    tasks["mnli"] = mnli.model_copy(update={"rows": rows})
    published = averages_of(tasks)["glue_test_nine"]
    assert published["student"] == pytest.approx((8 * 0.8 + 0.7) / 9)
    # F1 of the other class is another number than the one that papers quote.
    for task, label in (("mrpc", "not_equivalent"), ("qqp", None)):
        relabelled = tasks[task].model_copy(update={"positive_label": label})
        assert set(averages_of({**tasks, task: relabelled})) == {"mean"}


def test_terminal_and_markdown_show_the_same_values() -> None:
    comparison = compared(TASKS)
    console = Console(width=120, file=StringIO())
    console.print(as_terminal(tasks_table(comparison)))
    shown, written = console.file.getvalue(), as_markdown(tasks_table(comparison))
    for text in ("sst2", "74.0 to 77.0", "58.0"):
        assert text in shown
        assert text in written
    assert summary(comparison) == [
        "shared by all tasks: general 75 s",
        "sst2: distill compare toy-1-sst2; checkpoint /c/task_specific",
        "cola: distill compare toy-1-cola; checkpoint /c/task_specific",
        "time: 6.7 min",
    ]
    link = comparison_link(comparison, "http://127.0.0.1:5000")
    assert link is not None
    assert parse_qs(link.partition("?")[2])["runs"] == ['["task_specific-accuracy", "task_specific-matthews"]']
