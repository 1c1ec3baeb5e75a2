"""The data card: its counts compared with plain loops, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.core.errors import DataError
from schemas.data.cards import DataLimits
from schemas.recipe.recipe import Recipe
from stages.preflight.data_card import make_data_card
from tests.support.builders import tiny_tokenizer
from tests.support.kinds import ROWS, kind_recipe_dict
from tests.support.toys import toy_recipe_dict, write_rows


def recipe_with(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]], **changes: Any) -> Recipe:
    recipe = toy_recipe_dict(folder)
    write_rows(Path(recipe["task"]["train"]), train)
    write_rows(Path(recipe["task"]["validation"]), validation)
    recipe["task"]["max_length"] = 8
    return Recipe.model_validate(recipe | changes)


TRAIN = [
    {"text_a": "the good film", "label": "good"},
    {"text_a": "The GOOD film!", "label": "bad"},
    {"text_a": "a bad plot", "label": "bad"},
    {"text_a": "one two three red blue green fast old", "label": "bad"},  # eight words and two
]
VALIDATION = [
    {"text_a": "a bad, plot", "label": "bad"},
    {"text_a": "warm score", "label": "good"},
    {"text_a": "warm score", "label": "good"},
]


def test_rows_lengths_labels_repeats_and_leaks_are_counted(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, TRAIN, VALIDATION, limits={"contradictions": 1})
    card = make_data_card(recipe, tiny_tokenizer(), tmp_path / "cache")
    assert card.task is not None
    train, validation = card.task.splits["train"], card.task.splits["validation"]
    assert (train.rows, train.sequences, train.cut, train.duplicates) == (4, 4, 1, 1)
    assert train.contradictions == 2
    assert train.labels == {"bad": 3, "good": 1}
    assert (train.lengths.longest, train.lengths.median) == (8, 5)
    assert train.tokens == 5 + 6 + 5 + 8  # an exclamation mark is a token
    assert (validation.in_train, validation.duplicates, validation.cut) == (1, 1, 0)
    assert card.corpus is not None
    assert card.leaks is not None
    assert make_data_card(recipe, tiny_tokenizer(), tmp_path / "cache") == card


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"cut": 0.2}, "limits.cut: task, train: cut off by max_length: 1 of 4 rows, 25.0 %"),
        ({"duplicates": 0.1}, "limits.duplicates: task, train: repeated texts: 1 of"),
        ({"contradictions": 0.4}, "limits.contradictions: task, train: texts with several labels: 2"),
        ({"in_train": 0.3}, "limits.in_train: task, validation: texts that are also in train: 1 of 3"),
    ],
)
def test_exceeding_a_limit_is_refused_with_the_figure(limits: dict[str, float], message: str, tmp_path: Path) -> None:
    accepted = dict.fromkeys(DataLimits.model_fields, 1.0)
    recipe = recipe_with(tmp_path, TRAIN, VALIDATION, limits=accepted | limits)
    with pytest.raises(DataError) as caught:
        make_data_card(recipe, tiny_tokenizer(), tmp_path / "cache")
    assert message in str(caught.value)
    assert f"or raise limits.{next(iter(limits))}" in str(caught.value)


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_task_has_a_card(kind: str, tmp_path: Path) -> None:
    raw = kind_recipe_dict(tmp_path, kind)
    raw["limits"] = dict.fromkeys(DataLimits.model_fields, 1.0)  # toy rows contain repeats
    card = make_data_card(Recipe.model_validate(raw), tiny_tokenizer(), tmp_path / "cache")
    assert card.task is not None
    assert card.task.kind == ("classification" if kind == "pair" else kind)
    train = card.task.splits["train"]
    assert train.rows == 160
    assert train.sequences >= train.rows
    assert bool(train.labels) == (kind != "embedding")
