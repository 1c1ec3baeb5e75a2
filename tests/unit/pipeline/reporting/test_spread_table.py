"""Lowest, mean and highest scores of several seeds and recipes."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from pipeline.reporting.result_table import as_records, as_terminal
from pipeline.reporting.spread_table import group_table, mean_scores
from schemas.results.manifest import Judgement, Row, RunReport
from schemas.results.report import GroupReport
from schemas.results.score import Score


def run(recipe: str, seed: int | None, student: float, labels: float | None = None, task: str = "sst2") -> RunReport:
    def row(name: str, kind: str, value: float) -> Row:
        score = Score(value=value, low=value, high=value)
        judgement = Judgement(task_metric=value, scores={"accuracy": score})
        return Row.model_validate({"name": name, "kind": kind, "status": "ran", "judgement": judgement})

    rows = [row("teacher", "teacher", 0.9), row("task_specific", "stage", student)]
    rows += [] if labels is None else [row("hard_label_baseline", "baseline", labels)]
    return RunReport(
        run=f"{recipe}-1-{task}-{seed}",
        recipe=recipe,
        task=task,
        seed=seed,
        metric="accuracy",
        rows=tuple(rows),
        seconds=1.0,
        store="/store",
    )


def group(tasks: dict[str, RunReport], recipe: str = "toy", failed: dict[str, str] | None = None) -> GroupReport:
    return GroupReport(
        run="g-1", recipe=recipe, shared=(), tasks=tasks, failed=failed or {}, seconds=2.0, store="/store"
    )


def test_seeds_are_summed_up_and_differences_are_those_of_the_same_seed() -> None:
    seeds = {0: (0.80, 0.78), 1: (0.84, 0.80), 2: (0.85, 0.76)}
    report = group({f"seed{seed}": run("toy", seed, *scores) for seed, scores in seeds.items()})
    table = group_table(report)
    assert table.title == "toy on sst2: accuracy %"
    assert [tuple(record.values()) for record in as_records(table)] == [
        ("teacher", "3", "90.0", "90.0", "90.0"),
        ("student", "3", "80.0", "83.0", "85.0"),
        ("hard labels only", "3", "76.0", "78.0", "80.0"),
        ("student minus teacher", "3", "-10.0", "-7.0", "-5.0"),
        ("student minus hard labels", "3", "+2.0", "+5.0", "+9.0"),
    ]
    means = mean_scores(report)
    assert means == pytest.approx({"teacher": 0.9, "student": 0.83, "hard_labels": 0.78})


def test_recipes_and_tasks_have_sections_averages_and_failed_runs_rows_of_their_own() -> None:
    runs = {
        f"{recipe}/{task}-seed{seed}": run(recipe, seed, score + seed / 10, task=task)
        for recipe in ("a", "b")
        for task, score in (("sst2", 0.5), ("mrpc", 0.7))
        for seed in (0, 1)
    }
    table = group_table(group(runs, "a, b"))
    assert [column.name for column in table.columns][:4] == ["recipe", "task", "metric", "model"]
    mean = next(row for row in as_records(table) if row["task"] == "mean" and row["model"] == "student")
    assert [mean[name] for name in ("runs", "lowest", "mean", "highest")] == ["2", "60.0", "65.0", "70.0"]
    assert mean_scores(group(runs, "a, b")) == {}

    failed = {"b/mrpc-seed1": "the teacher is no good"}
    table = group_table(group({label: part for label, part in runs.items() if label not in failed}, "a, b", failed))
    *_, last = as_records(table)
    assert (last["model"], last["mean"]) == ("b/mrpc-seed1: failed", "–")
    assert not [record for record in as_records(table) if record["task"] == "mean"]
    out = Console(file=StringIO(), width=80)
    out.print(as_terminal(table))
    assert max(map(len, out.file.getvalue().splitlines())) <= 80  # type: ignore[attr-defined]


def test_recipes_without_seeds_are_compared_and_tasks_without_seeds_keep_their_table() -> None:
    recipes = group({"a": run("a", None, 0.8), "b": run("b", None, 0.7)}, "a, b")
    assert [row.cells[:2] for row in group_table(recipes).rows][::3] == [("a", "teacher"), ("b", "teacher")]
    # A recipe's name is no part of a task that begins like it.
    several = group({f"toys-seed{seed}": run("toy", seed, 0.8, task="toys") for seed in (0, 1)})
    assert [row.cells[1] for row in group_table(several).rows] == ["2", "2", "2"]
    tasks = group({"sst2": run("toy", None, 0.8), "mrpc": run("toy", None, 0.8, task="mrpc")})
    assert group_table(tasks).columns[0].heading == ""


def test_runs_without_a_head_are_compared_by_their_probes_or_latent_losses() -> None:
    def general(judgement: Judgement) -> RunReport:
        row = Row.model_validate({"name": "general", "kind": "stage", "status": "ran", "judgement": judgement})
        return run("toy", 0, 0.0).model_copy(update={"rows": (row,)})

    probed = group({"seed0": general(Judgement(probe_accuracy=0.7, latent_loss=3.25))})
    assert (group_table(probed).title, group_table(probed).rows[0].cells) == (
        "toy on sst2: probe %",
        ("student", "1", "70.0", "70.0", "70.0"),
    )
    latent = group({"seed0": general(Judgement(latent_loss=3.25))})
    assert group_table(latent).rows[0].cells == ("student", "1", "3.25", "3.25", "3.25")
