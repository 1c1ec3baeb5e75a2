"""Sizes and amounts beyond any machine are refused when they are read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import BertConfig

from pipeline.store.run_reports import report_path
from schemas.core.errors import ConfigError, DataError
from schemas.core.training import Training
from schemas.loading.load import load_recipe
from schemas.recipe.student import StudentShape
from stages.models.encoders import shape_of
from tests.support.paths import RECIPES

SHAPE = {"num_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 1_000_000},
        {"num_layers": 201},
        {"num_layers": 200, "hidden_size": 65_536},
        {"hidden_size": 32_768, "intermediate_size": 1_048_576},
    ],
)
def test_a_student_too_large_for_any_machine_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        StudentShape(**(SHAPE | changes))
    assert StudentShape(**SHAPE | {"num_layers": 200}).num_layers == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 1_000_000},
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 0},
        {"vocab_size": 10**12},
        {"num_hidden_layers": 200, "hidden_size": 65_536, "num_attention_heads": 64},
    ],
)
def test_a_model_too_large_for_any_machine_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"correct its config\.json"):
        shape_of(BertConfig(**changes))
    assert shape_of(BertConfig()).hidden_size == 768


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("duration", "999999999 epochs"),
        ("duration", "2000000000 steps"),
        ("duration", "1000000000M tokens"),
        ("batch", "10000000 sequences"),
        ("batch", "10000M tokens"),
    ],
)
def test_an_infeasible_amount_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError, match="more than any run can take"):
        Training(**{"duration": "3 epochs", key: value})
    began = time.monotonic()
    with pytest.raises(ConfigError, match="more than any run can take"):
        load_recipe("quickstart", [f"stages[0].training.{key}={value}"], recipes_folder=RECIPES)
    assert time.monotonic() - began < 5


def test_a_run_of_the_longest_recipe_and_task_names_has_a_valid_name() -> None:
    name = f"{'r' * 64}-20261231-235959-{'t' * 64}"
    assert report_path(Path("store"), f"{name}-12").name == f"{name}-12.json"
