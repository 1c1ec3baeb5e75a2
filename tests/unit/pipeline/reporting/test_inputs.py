"""The summary of the data that `plan` and `run` print before training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.planning.plan import make_plan, print_plan
from pipeline.reporting.inputs import class_lines, data_lines
from schemas.core.errors import ConfigError, DataError
from schemas.data.cards import DataCard, LengthCard, SplitCard, TaskCard
from schemas.recipe.recipe import Recipe
from tests.support.kinds import kind_recipe_dict
from tests.support.toys import toy_recipe_dict, toy_rows, write_rows


def card(labels: dict[str, float], kind: str = "classification", **changes: Any) -> DataCard:
    lengths = LengthCard(mean=9, median=9, most_of=14, longest=15)
    split = SplitCard(
        rows=160, sequences=160, tokens=1440, lengths=lengths, cut=0, duplicates=0, contradictions=0, labels=labels
    )
    task = TaskCard(task="toy", kind=kind, splits={"train": split}, remarks=("task: said",))
    return DataCard(task=task.model_copy(update=changes))


@pytest.mark.parametrize(
    ("kind", "labels", "line"),
    [
        ("classification", {"bad": 1200, "good": 3000}, "2 classes: good (3,000), bad (1,200)"),
        ("multi_label", {"joy": 3, "love": 0}, "2 labels: joy (3), love (0)"),
        ("token_classification", {"O": 90, "B-PER": 4}, "2 tags: O (90), B-PER (4)"),
        (
            "question_answering",
            {"answered": 5, "without an answer": 2},
            "2 questions: answered (5), without an answer (2)",
        ),
        ("regression", {"mean": 2.7001, "lowest": -1, "highest": 5}, "values: -1 to 5, mean 2.7"),
    ],
)
def test_the_labels_of_every_kind_are_summarised(kind: str, labels: dict[str, float], line: str) -> None:
    assert class_lines(card(labels, kind)) == [f"train, {line}"]


def test_many_classes_are_abbreviated_and_long_names_shortened() -> None:
    labels = {f"intent {number}": 100.0 - number for number in range(60)}
    (line,) = class_lines(card(labels | {"x" * 200: 500, "two\nlines": 200}))
    assert line == (
        "train, 62 classes: the largest xxxxxxxxxxxxxxx…xxxxxxxxxxxxxx (500), two\\nlines (200), intent 0 (100), "
        "intent 1 (99); the smallest intent 56 (44), intent 57 (43), intent 58 (42), intent 59 (41)"
    )


def test_lines_of_several_tasks_begin_with_the_task() -> None:
    lines = data_lines({"a": card({"x": 1, "y": 2}), "b": card({"x": 1, "y": 2})})
    assert "a: task: said" in lines
    assert "b: train, 2 classes: y (2), x (1)" in lines
    assert data_lines({None: card({"x": 1, "y": 2})})[0] == "task: said"


def printed(recipe: dict[str, Any], folder: Path) -> tuple[list[str], dict[str, Any]]:
    plan = make_plan(Recipe.model_validate(recipe), folder / "store")
    console = Console(width=80, file=io.StringIO())
    print_plan(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines(), plan.model_dump(mode="json")


def test_plan_prints_classes_and_dropped_rows_above_its_table(tmp_path: Path) -> None:
    recipe = toy_recipe_dict(tmp_path)
    rows: list[dict[str, Any]] = [*toy_rows(160, seed=1)]
    rows[50:50] = [{"text_a": "", "label": "good"}, {"text_a": "the [b]film[/b]", "label": "-"}]
    write_rows(Path(recipe["task"]["train"]), rows)
    lines, plan = printed(recipe, tmp_path)
    assert lines[0].startswith(f"task.train: {recipe['task']['train']}: 2 of 162 rows have no text")
    assert "; 2 left out without a text or a label" in lines[1]
    assert lines[1].startswith("train: 160 rows")
    assert "train, 2 classes: bad (80), good (80)" in lines
    assert lines.index("validation, 2 classes: bad (30), good (30)") < lines.index("")
    split = plan["data"]["toy"]["task"]["splits"]["train"]
    assert (split["rows"], split["dropped"], split["labels"]) == (160, 2, {"bad": 80, "good": 80})
    assert plan["data"]["toy"]["task"]["remarks"] == [lines[0]]


def test_plan_refuses_tags_that_a_run_could_not_score(tmp_path: Path) -> None:
    recipe = kind_recipe_dict(tmp_path, "token_classification")
    words = {"tokens": ["one", "two"], "tags": ["NUM", "NOUN"]}
    write_rows(Path(recipe["task"]["train"]), [words] * 8)
    write_rows(Path(recipe["task"]["validation"]), [words] * 4)
    with pytest.raises(DataError, match=r"NOUN, NUM mark no entities: .* task.metric to token_accuracy"):
        make_plan(Recipe.model_validate(recipe), tmp_path / "store")


def test_selection_by_entities_of_unconverted_tags_is_refused(tmp_path: Path) -> None:
    recipe = kind_recipe_dict(tmp_path, "token_classification")
    words = [{"tokens": ["one", "two"], "tags": tags} for tags in (["NUM", "NOUN"], ["NOUN", "NUM"])]
    write_rows(Path(recipe["task"]["train"]), words * 8)
    write_rows(Path(recipe["task"]["validation"]), words * 4)
    recipe["limits"] = dict.fromkeys(("duplicates", "contradictions", "in_train"), 1.0)
    recipe["task"]["metric"] = "token_accuracy"
    make_plan(Recipe.model_validate(recipe), tmp_path / "store")
    training = recipe["teacher"]["task_model"]["training"]
    recipe["teacher"]["task_model"]["training"] = {**training, "selection": {"metric": "entity_f1"}}
    with pytest.raises(ConfigError, match=r"selection.metric: entity_f1 scores entities, .* token_accuracy"):
        make_plan(Recipe.model_validate(recipe), tmp_path / "store")
