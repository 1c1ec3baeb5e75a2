"""The shipped recipes, package data beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.loading.load import load_recipe, recipe_names
from schemas.recipe.recipe import Recipe

RECIPES = Path(__file__).parent


def shipped_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(recipe_names(RECIPES))


def read_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or a YAML file by path, with overrides applied.

    Raises:
        ConfigError: no such recipe, or all of its problems.
    """
    return load_recipe(source, overrides, recipes_folder=RECIPES)
