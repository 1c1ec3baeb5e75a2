"""The comparison of methods runs its controls, continues where it stopped, and its table is arithmetic on its runs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from benchmarks import quality
from benchmarks.evidence.of_quality import Result, tables_of
from benchmarks.evidence.pages import readme_table, results_section
from benchmarks.evidence.records import Evidence, read_all, write
from benchmarks.methods import (
    CHANGES,
    CONTROL,
    FOUR,
    FOUR_STAGES,
    HARD,
    METHODS,
    NO_CHANGE,
    STARTS,
    Change,
    four_stages,
    held_out_task,
    merged,
    variant,
)
from benchmarks.quality import candidates, compare_starts, main, summarise
from pipeline.flow import RunOptions, distill_flow
from schemas.data.tasks import FileTask
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import TaskSpecificStage
from tests.support.toys import toy_recipe_dict, toy_rows, write_rows


def command(*words: str) -> str:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def base(folder: Path) -> dict[str, object]:
    recipe = toy_recipe_dict(folder) | {"student": {"shape": {**toy_recipe_dict(folder)["student"]["shape"]}}}
    recipe["student"]["start"] = {"kind": "extract", "units": "random"}
    return Recipe.model_validate(recipe).model_dump(mode="json")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_spends_the_tokens_of_the_budget(name: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(variant(base(tmp_path), METHODS[name], tokens=1e6, seed=3))
    assert sum(stage.training.duration.amount for stage in recipe.stages) == pytest.approx(1e6)
    assert {stage.training.seed for stage in recipe.stages} == {3}
    assert recipe.student.start.seed == 3


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_change_is_a_valid_recipe_that_differs_from_the_four_stages(name: str, tmp_path: Path) -> None:
    recipe = base(tmp_path)
    four = Recipe.model_validate(variant(recipe, METHODS[FOUR_STAGES], tokens=1e6, seed=0))
    with_change = Recipe.model_validate(
        variant(recipe, four_stages(CHANGES[name]), tokens=1e6, seed=0, change=CHANGES[name])
    )
    assert with_change != four
    assert sum(stage.training.duration.amount for stage in with_change.stages) == pytest.approx(1e6)


def test_a_change_of_latent_terms_reaches_every_latent_objective_and_spares_the_control(tmp_path: Path) -> None:
    change = Change(latent={"normalize": "first_step"})
    four = Recipe.model_validate(variant(base(tmp_path), METHODS[FOUR_STAGES], tokens=1e6, seed=0, change=change))
    assert [stage.objective.latent.normalize for stage in four.stages] == ["first_step"] * 4
    control = Recipe.model_validate(variant(base(tmp_path), METHODS[CONTROL], tokens=1e6, seed=0, change=change))
    (stage,) = control.stages
    assert isinstance(stage, TaskSpecificStage)
    assert stage.objective.latent is None
    assert stage.objective.soft_label is None


def test_factors_multiply_every_learning_rate(tmp_path: Path) -> None:
    recipe = variant(base(tmp_path), METHODS[FOUR_STAGES], tokens=1e6, seed=0, factor=0.5)
    assert [stage["training"]["optimizer"]["learning_rate"] for stage in recipe["stages"]] == [5e-4] * 4


def test_the_later_of_two_changes_wins() -> None:
    first = Change(latent={"a": 1, "b": 1}, training={"general": {"x": 1}})
    second = Change(latent={"b": 2}, training={"general": {"y": 2}, "task_specific": {"z": 3}})
    assert merged([first, second]) == Change(
        latent={"a": 1, "b": 2}, training={"general": {"x": 1, "y": 2}, "task_specific": {"z": 3}}
    )
    assert merged([]) == NO_CHANGE


def test_leaving_a_stage_out_gives_its_tokens_to_the_next_one() -> None:
    for left_out, following in pairwise(FOUR):
        stages = METHODS[f"without {left_out}"].stages
        assert list(stages) == [name for name in FOUR if name != left_out]
        for name, (share, objective) in stages.items():
            gained = FOUR[left_out][0] if name == following else 0
            assert share == pytest.approx(FOUR[name][0] + gained)
            assert objective == FOUR[name][1]


def test_without_task_specific_the_classifier_learns_from_hard_labels_alone() -> None:
    stages = METHODS["without task_specific"].stages
    *earlier, last = stages.items()
    assert dict(earlier) == {name: FOUR[name] for name in list(FOUR)[:-1]}
    assert last == ("task_specific", (FOUR["task_specific"][0], HARD))


def test_controls_are_compared_whatever_is_asked_for() -> None:
    assert [candidate.name for candidate in candidates([], [], [], None)] == [
        "hard labels",
        "soft + hard labels",
        "four stages",
    ]
    assert [candidate.name for candidate in candidates([], [], [], None, soft=False)] == ["hard labels", "four stages"]
    (*_, four) = candidates([], [], ["half in task_specific"], None)
    assert four.method.stages["task_specific"][0] == 0.5
    names = [candidate.name for candidate in candidates(["TinyBERT"], ["first step"], [], "TinyBERT")]
    assert names[3:] == ["TinyBERT", "+ first step", *(f"TinyBERT, {start}" for start in STARTS)]


def test_held_out_rows_leave_the_training_file_with_all_their_copies(tmp_path: Path) -> None:
    rows = toy_rows(40, seed=1)
    rows += [{**row, "text_a": row["text_a"].upper()} for row in rows]
    train = write_rows(tmp_path / "train.jsonl", rows)
    task = FileTask(train=str(train), validation=str(tmp_path / "unread.jsonl"), max_length=24)
    split = held_out_task(task, tmp_path / "split", rows=10)
    again = held_out_task(task, tmp_path / "again", rows=10)
    parts = {
        name: [json.loads(line) for line in Path(split[name]).read_text(encoding="utf-8").splitlines()]
        for name in ("train", "validation")
    }
    held = {row["text_a"].casefold() for row in parts["validation"]}
    assert len(parts["validation"]) == 10
    assert all(row in rows for part in parts.values() for row in part)
    assert parts["train"] == [row for row in rows if row["text_a"].casefold() not in held]
    assert Path(again["validation"]).read_bytes() == Path(split["validation"]).read_bytes()
    assert split["max_length"] == 24


def test_a_comparison_chooses_on_held_out_rows_reports_on_others_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[dict[str, Any]] = []

    def measured(recipe: dict[str, Any], store: Path) -> dict[str, Any]:
        # The score depends on the rate, and lies the other way round on the rows that are reported.
        runs.append(recipe)
        rate = recipe["stages"][-1]["training"]["optimizer"]["learning_rate"]
        held_out = "held-out" in recipe["task"]["validation"]
        score = 0.9 if (rate < 5e-4) == held_out else 0.6
        return {
            "metric": "accuracy",
            "score": score,
            "draws": [score] * 1000,
            "teacher": 0.95,
            "guessing": 0.5,
            "scored": 40,
            "agreement": 0.8,
            "tokens": 600,
            "seconds": 1.0,
        }

    monkeypatch.setattr(quality, "_measured", measured)
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in")), encoding="utf-8")
    words = [str(recipe), "--tokens", "600", "--held-out", "50", "--rows", "validation", "--factors", "0.1,1"]
    words += ["--store", str(tmp_path / "store"), "--json", str(tmp_path / "out.json")]
    command(*words, "--seeds", "0")
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["results"]
    assert [(result["rows"], result["factor"]) for result in results] == 3 * [
        ("held_out", 0.1),
        ("held_out", 1.0),
        ("validation", 0.1),
    ]
    assert [result["method"] for result in results[::3]] == ["hard labels", "soft + hard labels", FOUR_STAGES]
    command(*words, "--seeds", "0,1")
    assert len(runs) == 9 + 3, "only the new seed is run"


@pytest.mark.usefixtures("prefect")
def test_the_score_of_a_run_is_that_of_its_report(tmp_path: Path) -> None:
    recipe = variant(base(tmp_path / "in"), METHODS[CONTROL], tokens=600, seed=1)
    measured = quality._measured(recipe, tmp_path / "store")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    report = distill_flow(recipe=str(file), options=RunOptions(store=str(tmp_path / "store")))
    student = [row for row in report.rows if row.kind == "stage"][-1]
    score = student.judgement.scores["accuracy"]
    assert measured["score"] == score.value
    assert [float(f"{end:.6f}") for end in (score.low, score.high)] == pytest.approx(
        [sorted(measured["draws"])[position] for position in (25, 974)], abs=0.02
    )


def result_of(method: str, budget: float, *scores: float) -> list[Result]:
    return [
        Result(
            key=f"{method}-{budget}-{seed}",
            task="toy",
            rows="held_out",
            method=method,
            budget=budget,
            seed=seed,
            factor=1.0,
            metric="accuracy",
            score=score,
            draws=[score - 0.01, score, score + 0.01],
            teacher=0.95,
            guessing=0.5,
            scored=872,
            agreement=0.9,
            tokens=int(budget),
            seconds=1.0,
        )
        for seed, score in enumerate(scores)
    ]


def test_the_table_shows_means_and_paired_differences(capsys: pytest.CaptureFixture[str]) -> None:
    summarise([*result_of(CONTROL, 1e6, 0.70, 0.70), *result_of(FOUR_STAGES, 1e6, 0.80, 0.80)])
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.lstrip().startswith(FOUR_STAGES))
    # Rows are drawn alike, and the seeds are equal, so the difference has no spread at all.
    assert "+10.0 (+10.0 to +10.0)" in line
    assert "80.0 to 80.0" in line
    assert "1.00 M tokens: accuracy on held_out rows, seeds: 2; teacher 95.0 %" in printed


def test_the_tokens_a_start_needs_are_the_fewest_that_reach_the_random_starts_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = [
        *result_of("hard labels", 2e6, 0.90, 0.90),
        *result_of("X, random start", 1e6, 0.70, 0.72),
        *result_of("X, random start", 2e6, 0.79, 0.81),
        *result_of("X, ETD-Impt", 5e5, 0.60, 0.90),
        *result_of("X, ETD-Impt", 1e6, 0.83, 0.81),
        *result_of("X, ETD-Impt", 2e6, 0.85, 0.85),
        *result_of("X, ETD-Rand", 2e6, 0.79, 0.80),
    ]
    compare_starts(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "toy, X, random start: the random start's final 80.0 % with 2.00 M tokens, 0 % fewer",
        "toy, X, ETD-Impt: the random start's final 80.0 % with 1.00 M tokens, 50 % fewer",
        "toy, X, ETD-Rand: the random start's final 80.0 % not reached",
    ]


def test_the_tables_of_the_pages_are_arithmetic_on_the_results_that_were_kept(tmp_path: Path) -> None:
    results = [
        *result_of(CONTROL, 2e5, 0.62, 0.62),
        *result_of(FOUR_STAGES, 2e5, 0.82, 0.82),
        *result_of("TinyBERT", 2e5, 0.60, 0.64),
    ]
    made = {"command": "python -m benchmarks.quality toy.yaml", "commit": "abc", "date": "2026-11-28", "numerics": 4}
    held_out = tables_of(results, {"toy": "A toy"})
    reported = tuple(table.model_copy(update={"reported": True}) for table in held_out)
    write("2-later", Evidence(**made, machine="two cores", tables=held_out), tmp_path)
    write("1-first", Evidence(**made, machine="two cores", tables=reported), tmp_path)
    first, later = read_all(tmp_path)
    assert (first.tables, later.tables) == (reported, held_out)
    # Kept: (82 - 50) / (95 - 50) = 71.1 %. Rows that settings are chosen on are left to docs/results.md.
    (_, _, row) = readme_table([first, later]).splitlines()
    assert row == "| A toy, accuracy | 0.20 M | 62.0 | **82.0** | 95.0 | +20.0 | 71 % |"
    shown = results_section([first, later])
    assert "| **four stages** | **82.0** | 82.0 to 82.0 | +20.0 | 71.1 % | 90.0 |" in shown
    assert "| hard labels alone (control) | 62.0 | 62.0 to 62.0 | – | 26.7 % | 90.0 |" in shown
    assert "| TinyBERT | 62.0 | 60.0 to 64.0 | +0.0 (" in shown
    assert "\n872 rows, 2 seeds." in shown
    assert "\n872 held-out rows, 2 seeds." in shown
