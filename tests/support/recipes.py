"""Recipes for tests of the loader, and the reported problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.core.errors import ConfigError
from schemas.loading.load import load_recipe
from schemas.recipe.recipe import Recipe
from tests.support.paths import RECIPES

SMALL = """\
name: small
description: One stage.
teacher:
  model: example/teacher
student:
  shape: {num_layers: 2, hidden_size: 8, num_attention_heads: 2, intermediate_size: 16}
general_corpus:
  sources:
    - kind: docstrings
stages:
  - name: general
    training:
      duration: 10 steps
"""


def quickstart(*overrides: str) -> Recipe:
    return load_recipe("quickstart", overrides, recipes_folder=RECIPES)


def problems(source: str | Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_recipe(source, overrides, recipes_folder=RECIPES)
    for line in refused.value.problems:
        assert "pydantic" not in line
        assert "\n" not in line
        assert len(line) < 700
    return refused.value.problems


def recipe(*overrides: str, name: str = "ernie-tiny") -> Recipe:
    return load_recipe(name, overrides, recipes_folder=RECIPES)
