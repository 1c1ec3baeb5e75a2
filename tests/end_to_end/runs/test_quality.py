"""The comparison of methods completes and resumes, and its table follows from the stored results."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from benchmarks.quality import FOUR, HARD, METHODS, STARTS, compare_starts, main, plan_of, variant
from schemas.recipe.recipe import Recipe
from tests.support.toys import toy_recipe_dict


def command(*words: str) -> str:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_uses_exactly_its_token_budget(name: str, tmp_path: Path) -> None:
    base = Recipe.model_validate(toy_recipe_dict(tmp_path)).model_dump(mode="json")
    recipe = Recipe.model_validate(variant(base, METHODS[name], tokens=1e6, seed=3))
    assert sum(stage.training.duration.amount for stage in recipe.stages) == pytest.approx(1e6)
    assert {stage.training.seed for stage in recipe.stages} == {3}


def test_leaving_a_stage_out_gives_its_tokens_to_the_next_one() -> None:
    for left_out, following in pairwise(FOUR):
        stages = METHODS[f"ERNIE-Tiny without {left_out}"].stages
        assert list(stages) == [name for name in FOUR if name != left_out]
        for name, (share, objective) in stages.items():
            gained = FOUR[left_out][0] if name == following else 0
            assert share == pytest.approx(FOUR[name][0] + gained)
            assert objective == FOUR[name][1]


def test_without_task_specific_the_classifier_learns_from_hard_labels_alone() -> None:
    stages = METHODS["ERNIE-Tiny without task_specific"].stages
    *earlier, last = stages.items()
    assert dict(earlier) == {name: FOUR[name] for name in list(FOUR)[:-1]}
    assert last == ("task_specific", (FOUR["task_specific"][0], HARD))


@pytest.mark.usefixtures("prefect")
def test_every_method_is_run_with_every_seed(tmp_path: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in")), encoding="utf-8")
    printed = command(
        str(recipe),
        "--tokens",
        "600",
        "--seeds",
        "0,1",
        "--methods",
        "hard labels",
        "--store",
        str(tmp_path / "store"),
        "--json",
        str(tmp_path / "out.json"),
    )
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["results"]
    assert [(result["method"], result["seed"]) for result in results] == [("hard labels", 0), ("hard labels", 1)]
    measured = [100 * result["accuracy"] for result in results]
    line = next(line for line in printed.splitlines() if line.lstrip().startswith("hard labels  "))
    cells = f"{statistics.mean(measured):.1f}", f"{min(measured):.1f} to {max(measured):.1f}"
    assert all(cell in line for cell in cells)
    assert "±" not in printed, "a standard deviation of two seeds is meaningless"


def test_starts_are_compared_at_shares_of_the_tokens() -> None:
    planned = plan_of([], "TinyBERT", 1e6, [0.5, 1.0])
    assert [(name, tokens) for name, _, tokens in planned] == [
        (f"TinyBERT, {name}", share * 1e6) for name in STARTS for share in (0.5, 1.0)
    ]
    assert {method.start["kind"] for _, method, _ in planned} == {"random", "extract"}


def test_tokens_to_match_are_the_fewest_that_reach_the_random_starts_final_score(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def result(method: str, budget: float, *accuracies: float) -> list[dict[str, object]]:
        return [{"method": method, "budget": budget, "accuracy": value} for value in accuracies]

    results = [
        *result("hard labels", 2e6, 0.90, 0.90),
        *result("X, random start", 1e6, 0.70, 0.72),
        *result("X, random start", 2e6, 0.79, 0.81),
        *result("X, ETD-Impt", 5e5, 0.60, 0.90),
        *result("X, ETD-Impt", 1e6, 0.83, 0.81),
        *result("X, ETD-Impt", 2e6, 0.85, 0.85),
        *result("X, ETD-Rand", 2e6, 0.79, 0.80),
    ]
    compare_starts(results[:6])
    compare_starts(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("the random start's final 80.0 % with 2.00 M tokens, 0 % fewer")
    assert lines[2] == "X, ETD-Impt: the random start's final 80.0 % with 1.00 M tokens, 50 % fewer"
    assert not any(line.startswith("hard labels") for line in lines)
    assert lines[3] == "X, ETD-Rand: the random start's final 80.0 % not reached"
