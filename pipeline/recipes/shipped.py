"""The shipped recipes, found beside this file so that they work from an installed wheel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.loading.load import load_recipe, recipe_names
from schemas.recipe.recipe import Recipe

RECIPES = Path(__file__).parent


def shipped_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(recipe_names(RECIPES))


def read_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file by path, with overrides applied.

    Raises:
        ConfigError: no such recipe, or problems in it, all at once.
    """
    return load_recipe(source, overrides, recipes_folder=RECIPES)
